BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'old');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_directions" VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'contract','{"protocol": "grouped", "image_size": 8, "seed": 0, "epochs": 4, "min_epochs": 1, "eta": 2, "sampler": "tpe", "pruner": "hyperband", "metric": "accuracy", "batch_size": 64, "augment": {"rotation": 10.0, "hflip": false, "vflip": false, "crop": 0.9, "jitter": 0.0, "stain": 0.0}, "space": {"num_conv_blocks": [1, 2], "base_filters": 4, "filters_multiplier": 1, "kernel_sizes": ["3-3-3", "5-3-3"], "use_batch_norm": [true, false], "conv_dropout": [0.0, 0.1], "dense_units": ["none", "64"], "learning_rate": {"low": 0.001, "high": 0.03, "log": true, "step": null}, "optimizer": "adamw", "schedule": "cosine"}, "baseline": {}, "final_epochs": 2, "final_batch_size": 64, "final_seeds": 1, "final_data": "train+val", "data content": "ac7b0957ca37c8c7657d1be3de581e153dada77900ea6200e49de8738b69e289", "parts": "62db9f68d16655f0e833e9042ef51566695148e6ef00cab068c2f0b3508f2002"}');
INSERT INTO "study_user_attributes" VALUES(2,1,'config','{"preset": "quick", "data": "digits", "groups": null, "protocol": "grouped", "image_size": 8, "seed": 0, "trials": 3, "hours": null, "epochs": 4, "min_epochs": 1, "eta": 2, "sampler": "tpe", "pruner": "hyperband", "metric": "accuracy", "batch_size": 64, "augment": {"rotation": 10.0, "hflip": false, "vflip": false, "crop": 0.9, "jitter": 0.0, "stain": 0.0}, "space": {"num_conv_blocks": [1, 2], "base_filters": 4, "filters_multiplier": 1, "kernel_sizes": ["3-3-3", "5-3-3"], "use_batch_norm": [true, false], "conv_dropout": [0.0, 0.1], "dense_units": ["none", "64"], "learning_rate": {"low": 0.001, "high": 0.03, "log": true, "step": null}, "optimizer": "adamw", "schedule": "cosine"}, "baseline": {}, "final_epochs": 2, "final_batch_size": 64, "final_seeds": 1, "final_data": "train+val", "skip_bad": false}');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_intermediate_values (
	trial_intermediate_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	step INTEGER NOT NULL, 
	intermediate_value FLOAT, 
	intermediate_value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_intermediate_value_id), 
	UNIQUE (trial_id, step), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,8.01587301587301626071e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,9.16666666666666629659e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,3,9.44444444444444419772e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,1,4,9.40476190476190465616e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,2,1,7.93650793650793606737e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,2,2,9.24603174603174648993e-01,'FINITE');
CREATE TABLE trial_params (
	param_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	param_name VARCHAR(512), 
	param_value FLOAT, 
	distribution_json TEXT, 
	PRIMARY KEY (param_id), 
	UNIQUE (trial_id, param_name), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_params" VALUES(1,1,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(2,1,'dense_units',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(3,1,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(4,1,'learning_rate',1.40260800796296464243e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(5,1,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(6,1,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(7,2,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(8,2,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(9,2,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(10,2,'learning_rate',2.75432386878779467132e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(11,2,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(12,2,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,2,'completed_rung_0','0.7936507936507936');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'num_params','962');
INSERT INTO "trial_user_attributes" VALUES(2,1,'bracket','2');
INSERT INTO "trial_user_attributes" VALUES(3,1,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 1}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'seconds','1.724');
INSERT INTO "trial_user_attributes" VALUES(5,1,'best_accuracy','0.9444444444444444');
INSERT INTO "trial_user_attributes" VALUES(6,1,'best_epoch','3');
INSERT INTO "trial_user_attributes" VALUES(7,1,'train_accuracy','0.8740234375');
INSERT INTO "trial_user_attributes" VALUES(8,1,'epoch_seconds','0.0323');
INSERT INTO "trial_user_attributes" VALUES(9,1,'images_per_second','31733.7');
INSERT INTO "trial_user_attributes" VALUES(10,2,'num_params','4930');
INSERT INTO "trial_user_attributes" VALUES(11,2,'bracket','0');
INSERT INTO "trial_user_attributes" VALUES(12,2,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 1}');
CREATE TABLE trial_values (
	trial_value_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	value FLOAT, 
	value_type VARCHAR(7) NOT NULL, 
	PRIMARY KEY (trial_value_id), 
	UNIQUE (trial_id, objective), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_values" VALUES(1,1,0,9.40476190476190465616e-01,'FINITE');
CREATE TABLE trials (
	trial_id INTEGER NOT NULL, 
	number INTEGER, 
	study_id INTEGER, 
	state VARCHAR(8) NOT NULL, 
	datetime_start DATETIME, 
	datetime_complete DATETIME, 
	PRIMARY KEY (trial_id), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-23 17:09:04.437812','2026-11-23 17:09:06.180430');
INSERT INTO "trials" VALUES(2,1,1,'RUNNING','2026-11-23 17:09:06.189340',NULL);
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO "version_info" VALUES(1,12,'5.0.0');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
