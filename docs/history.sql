BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('v3.2.0.a');
CREATE TABLE leases (
	trial_id INTEGER NOT NULL, 
	worker VARCHAR(32), 
	host VARCHAR(255), 
	boot VARCHAR(64), 
	namespace VARCHAR(64), 
	pid INTEGER, 
	started BIGINT, 
	beat BIGINT NOT NULL, 
	deaths INTEGER NOT NULL, 
	steps INTEGER NOT NULL, 
	PRIMARY KEY (trial_id)
);
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO "studies" VALUES(1,'quick-digits');
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
INSERT INTO "study_system_attributes" VALUES(1,1,'study:metric_names','["selection score (accuracy on val)"]');
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO "study_user_attributes" VALUES(1,1,'config','{"preset": "quick", "data": "digits", "groups": null, "labels_from": "first", "without": [], "only": null, "parts": null, "allow_leaks": false, "protocol": "grouped", "image_size": 16, "seed": 0, "trials": 12, "hours": null, "workers": 1, "runs": null, "epochs": 9, "min_epochs": 1, "eta": 3, "sampler": "tpe", "pruner": "hyperband", "metric": "accuracy", "class_weights": "none", "batch_size": 64, "rate_batch_size": null, "augment": {"rotation": 10.0, "hflip": false, "vflip": false, "turns": false, "crop": 0.9, "jitter": 0.0, "stain": 0.0}, "space": {"num_conv_blocks": [2, 3], "base_filters": 8, "filters_multiplier": [1, 2], "kernel_sizes": ["3-3-3", "5-3-3"], "use_batch_norm": [true, false], "conv_dropout": [0.0, 0.1], "dense_units": ["none", "64"], "learning_rate": {"low": 0.001, "high": 0.03, "log": true, "step": null}, "optimizer": "adamw", "schedule": "cosine"}, "baseline": {}, "weights": null, "starts": [{"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "3-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "none", "learning_rate": 0.01}, {"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "5-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "64", "learning_rate": 0.01}], "begin_from": null, "near_starts": 0.0, "limit": {"gflops": null, "megabytes": null, "params": null}, "confirm": 1, "confirm_epochs": null, "final_epochs": 18, "final_batch_size": 64, "final_seeds": 1, "rivals": ["runner-up", "baseline"], "pretrained": true, "tta": "none", "final_data": "train+val", "positive": [], "leaky_score": false, "checkpoint_seconds": 30.0, "max_megapixels": 100.0, "skip_bad": false}');
INSERT INTO "study_user_attributes" VALUES(2,1,'contract','{"labels_from": "first", "without": [], "only": null, "allow_leaks": false, "protocol": "grouped", "image_size": 16, "seed": 0, "epochs": 9, "min_epochs": 1, "eta": 3, "sampler": "tpe", "pruner": "hyperband", "metric": "accuracy", "class_weights": "none", "batch_size": 64, "rate_batch_size": null, "augment": {"rotation": 10.0, "hflip": false, "vflip": false, "turns": false, "crop": 0.9, "jitter": 0.0, "stain": 0.0}, "space": {"num_conv_blocks": [2, 3], "base_filters": 8, "filters_multiplier": [1, 2], "kernel_sizes": ["3-3-3", "5-3-3"], "use_batch_norm": [true, false], "conv_dropout": [0.0, 0.1], "dense_units": ["none", "64"], "learning_rate": {"low": 0.001, "high": 0.03, "log": true, "step": null}, "optimizer": "adamw", "schedule": "cosine"}, "baseline": {}, "starts": [{"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "3-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "none", "learning_rate": 0.01}, {"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "5-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "64", "learning_rate": 0.01}], "begin_from": null, "near_starts": 0.0, "limit": {"gflops": null, "megabytes": null, "params": null}, "confirm": 1, "confirm_epochs": null, "final_epochs": 18, "final_batch_size": 64, "final_seeds": 1, "rivals": ["runner-up", "baseline"], "tta": "none", "final_data": "train+val", "defaults": {"block": "plain", "stem_stride": 1, "head": "flatten", "dense_dropout": 0.0, "weight_decay": 0.0001, "decayed": "all", "label_smoothing": 0.0, "augment_strength": 1.0, "augment_turns": false, "backbone": "none", "backbone_trained": 0.0, "backbone_rate": 0.3}, "data content": "ac7b0957ca37c8c7657d1be3de581e153dada77900ea6200e49de8738b69e289", "parts": "62db9f68d16655f0e833e9042ef51566695148e6ef00cab068c2f0b3508f2002"}');
INSERT INTO "study_user_attributes" VALUES(3,1,'identity','"13147f4d352f425390fdae3a5b045c43"');
INSERT INTO "study_user_attributes" VALUES(4,1,'clock','{"seconds": 15.773859073990025, "holder": null}');
INSERT INTO "study_user_attributes" VALUES(5,1,'threads','2');
INSERT INTO "study_user_attributes" VALUES(6,1,'pretrained','{"trials": 12, "side": 16}');
INSERT INTO "study_user_attributes" VALUES(7,1,'openings','[{"number": 1, "time": "2026-11-27T15:44:36+00:00", "weights_sha256": ["cf27d88e1b3ff9d1a4633c3d22af67b80b74f8c588ec50da9cefbf6b177164ab", "89666d8ac09587317ac7e56c060b585b8d9388e169a9af86c980b7f4c0f7697f", "3aa71cc6d6dd95ece9a7bb1e9336274ea74f94fb2464a79bf65f93999cc721ca"], "parts": "62db9f68d16655f0e833e9042ef51566695148e6ef00cab068c2f0b3508f2002", "study": ""}]');
INSERT INTO "study_user_attributes" VALUES(8,1,'models','[{"trial": 6, "weights_sha256": "cf27d88e1b3ff9d1a4633c3d22af67b80b74f8c588ec50da9cefbf6b177164ab", "accuracy": 0.9916434540389972, "low": 0.9757741032230349, "high": 0.9982733527621714, "path": "model", "opening": 1, "leaky": false}]');
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
INSERT INTO "trial_intermediate_values" VALUES(1,1,1,8.2142857142857139685e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(2,1,2,9.52380952380952328084e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(3,1,3,9.40476190476190465616e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(4,1,4,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(5,1,5,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(6,1,6,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(7,1,7,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(8,1,8,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(9,1,9,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(10,2,1,5.27777777777777790113e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(11,2,2,8.88888888888888839545e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(12,2,3,9.60317460317460347418e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(13,2,4,9.80158730158730118198e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(14,2,5,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(15,2,6,9.88095238095238137532e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(16,2,7,9.88095238095238137532e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(17,2,8,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(18,2,9,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(19,3,1,6.34920634920634885389e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(20,3,2,9.24603174603174648993e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(21,3,3,9.44444444444444419772e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(22,4,1,8.41269841269841278652e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(23,4,2,9.28571428571428603149e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(24,4,3,9.20634920634920583815e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(25,4,4,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(26,4,5,9.80158730158730118198e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(27,4,6,9.76190476190476164042e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(28,4,7,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(29,4,8,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(30,4,9,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(31,5,1,3.0158730158730157056e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(32,6,1,7.77777777777777790113e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(33,6,2,9.08730158730158721347e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(34,6,3,9.44444444444444419772e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(35,6,4,9.80158730158730118198e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(36,6,5,9.88095238095238137532e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(37,6,6,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(38,6,7,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(39,6,8,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(40,6,9,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(41,7,1,8.17460317460317442694e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(42,7,2,9.32539682539682557305e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(43,7,3,9.48412698412698373928e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(44,7,4,9.56349206349206393262e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(45,7,5,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(46,7,6,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(47,7,7,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(48,7,8,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(49,7,9,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(50,8,1,6.70634920634920583815e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(51,8,2,8.3333333333333337034e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(52,8,3,8.96825396825396858879e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(53,9,1,7.02380952380952328084e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(54,9,2,9.00793650793650813035e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(55,9,3,9.40476190476190465616e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(56,10,1,7.73809523809523835957e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(57,10,2,9.60317460317460347418e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(58,10,3,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(59,10,4,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(60,10,5,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(61,10,6,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(62,10,7,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(63,10,8,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(64,10,9,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(65,11,1,9.28571428571428603149e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(66,11,2,9.6825396825396825573e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(67,11,3,9.88095238095238137532e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(68,11,4,9.80158730158730118198e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(69,11,5,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(70,11,6,1.0,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(71,11,7,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(72,11,8,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(73,11,9,0.996031746031746,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(74,12,1,8.45238095238095232808e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(75,12,2,9.48412698412698373928e-01,'FINITE');
INSERT INTO "trial_intermediate_values" VALUES(76,12,3,9.56349206349206393262e-01,'FINITE');
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
INSERT INTO "trial_params" VALUES(1,1,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(2,1,'dense_units',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(3,1,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(4,1,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(5,1,'learning_rate',0.01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(6,1,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(7,1,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(8,2,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(9,2,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(10,2,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(11,2,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(12,2,'learning_rate',0.01,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(13,2,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(14,2,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(15,3,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(16,3,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(17,3,'filters_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(18,3,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(19,3,'learning_rate',1.37221911305187016516e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(20,3,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(21,3,'use_batch_norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(22,4,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(23,4,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(24,4,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(25,4,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(26,4,'learning_rate',0.029353854214301,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(27,4,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(28,4,'use_batch_norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(29,5,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(30,5,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(31,5,'filters_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(32,5,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(33,5,'learning_rate',1.78955756867785133364e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(34,5,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(35,5,'use_batch_norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(36,6,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(37,6,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(38,6,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(39,6,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(40,6,'learning_rate',1.05379014548512839333e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(41,6,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(42,6,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(43,7,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(44,7,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(45,7,'filters_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(46,7,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(47,7,'learning_rate',2.73216377754104539077e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(48,7,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(49,7,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(50,8,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(51,8,'dense_units',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(52,8,'filters_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(53,8,'kernel_sizes',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(54,8,'learning_rate',2.82259973920245431019e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(55,8,'num_conv_blocks',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(56,8,'use_batch_norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(57,9,'conv_dropout',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(58,9,'dense_units',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(59,9,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(60,9,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(61,9,'learning_rate',1.38907520227810792404e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(62,9,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(63,9,'use_batch_norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(64,10,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(65,10,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(66,10,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(67,10,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(68,10,'learning_rate',2.12488451917150836245e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(69,10,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(70,10,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(71,11,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(72,11,'dense_units',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(73,11,'filters_multiplier',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(74,11,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(75,11,'learning_rate',1.25694437354793749073e-02,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(76,11,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(77,11,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO "trial_params" VALUES(78,12,'conv_dropout',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [0.0, 0.1]}}');
INSERT INTO "trial_params" VALUES(79,12,'dense_units',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["none", "64"]}}');
INSERT INTO "trial_params" VALUES(80,12,'filters_multiplier',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [1, 2]}}');
INSERT INTO "trial_params" VALUES(81,12,'kernel_sizes',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3-3", "5-3-3"]}}');
INSERT INTO "trial_params" VALUES(82,12,'learning_rate',1.55303106639595803195e-03,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.001, "high": 0.03, "log": true}}');
INSERT INTO "trial_params" VALUES(83,12,'num_conv_blocks',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [2, 3]}}');
INSERT INTO "trial_params" VALUES(84,12,'use_batch_norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_system_attributes" VALUES(1,1,'fixed_params','{"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "3-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "none", "learning_rate": 0.01}');
INSERT INTO "trial_system_attributes" VALUES(2,2,'fixed_params','{"num_conv_blocks": 3, "filters_multiplier": 2, "kernel_sizes": "5-3-3", "use_batch_norm": true, "conv_dropout": 0.0, "dense_units": "64", "learning_rate": 0.01}');
INSERT INTO "trial_system_attributes" VALUES(3,2,'completed_rung_0','0.5277777777777778');
INSERT INTO "trial_system_attributes" VALUES(4,2,'completed_rung_1','0.9603174603174603');
INSERT INTO "trial_system_attributes" VALUES(5,3,'completed_rung_0','0.6349206349206349');
INSERT INTO "trial_system_attributes" VALUES(6,3,'completed_rung_1','0.9444444444444444');
INSERT INTO "trial_system_attributes" VALUES(7,4,'completed_rung_0','0.9206349206349206');
INSERT INTO "trial_system_attributes" VALUES(8,5,'completed_rung_0','0.30158730158730157');
INSERT INTO "trial_system_attributes" VALUES(9,6,'completed_rung_0','0.9444444444444444');
INSERT INTO "trial_system_attributes" VALUES(10,8,'completed_rung_0','0.8968253968253969');
INSERT INTO "trial_system_attributes" VALUES(11,9,'completed_rung_0','0.7023809523809523');
INSERT INTO "trial_system_attributes" VALUES(12,9,'completed_rung_1','0.9404761904761905');
INSERT INTO "trial_system_attributes" VALUES(13,10,'completed_rung_0','0.9841269841269841');
INSERT INTO "trial_system_attributes" VALUES(14,11,'tpe:relative_params:0','"{\"conv_dropout\": 0.1, \"dense_units\": \"none\", \"filters_multiplier\": 1, \"kernel_sizes\": \"5-3-3\", \"learning_rate\": 0.012569443735479375, \"num_conv_blocks\": 2, \"use_batch_norm\": true}"');
INSERT INTO "trial_system_attributes" VALUES(15,12,'tpe:relative_params:0','"{\"conv_dropout\": 0.1, \"dense_units\": \"64\", \"filters_multiplier\": 2, \"kernel_sizes\": \"5-3-3\", \"learning_rate\": 0.001553031066395958, \"num_conv_blocks\": 2, \"use_batch_norm\": true}"');
INSERT INTO "trial_system_attributes" VALUES(16,12,'completed_rung_0','0.9563492063492064');
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO "trial_user_attributes" VALUES(1,1,'num_params','26378');
INSERT INTO "trial_user_attributes" VALUES(2,1,'bracket','2');
INSERT INTO "trial_user_attributes" VALUES(3,1,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(4,1,'seconds','1.394');
INSERT INTO "trial_user_attributes" VALUES(5,1,'best_accuracy','0.996031746031746');
INSERT INTO "trial_user_attributes" VALUES(6,1,'best_epoch','4');
INSERT INTO "trial_user_attributes" VALUES(7,1,'train_accuracy','0.9990234375');
INSERT INTO "trial_user_attributes" VALUES(8,1,'epoch_seconds','0.0506');
INSERT INTO "trial_user_attributes" VALUES(9,1,'images_per_second','20231.0');
INSERT INTO "trial_user_attributes" VALUES(10,2,'num_params','41674');
INSERT INTO "trial_user_attributes" VALUES(11,2,'bracket','0');
INSERT INTO "trial_user_attributes" VALUES(12,2,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(13,2,'seconds','0.513');
INSERT INTO "trial_user_attributes" VALUES(14,2,'best_accuracy','0.9920634920634921');
INSERT INTO "trial_user_attributes" VALUES(15,2,'best_epoch','5');
INSERT INTO "trial_user_attributes" VALUES(16,2,'train_accuracy','0.9970703125');
INSERT INTO "trial_user_attributes" VALUES(17,2,'epoch_seconds','0.0536');
INSERT INTO "trial_user_attributes" VALUES(18,2,'images_per_second','19107.8');
INSERT INTO "trial_user_attributes" VALUES(19,3,'num_params','14938');
INSERT INTO "trial_user_attributes" VALUES(20,3,'bracket','0');
INSERT INTO "trial_user_attributes" VALUES(21,3,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(22,3,'seconds','0.11');
INSERT INTO "trial_user_attributes" VALUES(23,3,'best_accuracy','0.9444444444444444');
INSERT INTO "trial_user_attributes" VALUES(24,3,'best_epoch','3');
INSERT INTO "trial_user_attributes" VALUES(25,3,'train_accuracy','0.8857421875');
INSERT INTO "trial_user_attributes" VALUES(26,3,'epoch_seconds','0.0328');
INSERT INTO "trial_user_attributes" VALUES(27,3,'images_per_second','31230.2');
INSERT INTO "trial_user_attributes" VALUES(28,3,'why','"not_promoted"');
INSERT INTO "trial_user_attributes" VALUES(29,3,'pruned_because','"not among the best 1/3 of its bracket after 3 epochs"');
INSERT INTO "trial_user_attributes" VALUES(30,4,'num_params','38570');
INSERT INTO "trial_user_attributes" VALUES(31,4,'bracket','1');
INSERT INTO "trial_user_attributes" VALUES(32,4,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(33,4,'seconds','0.329');
INSERT INTO "trial_user_attributes" VALUES(34,4,'best_accuracy','0.9920634920634921');
INSERT INTO "trial_user_attributes" VALUES(35,4,'best_epoch','4');
INSERT INTO "trial_user_attributes" VALUES(36,4,'train_accuracy','0.990234375');
INSERT INTO "trial_user_attributes" VALUES(37,4,'epoch_seconds','0.0341');
INSERT INTO "trial_user_attributes" VALUES(38,4,'images_per_second','30034.6');
INSERT INTO "trial_user_attributes" VALUES(39,5,'num_params','15322');
INSERT INTO "trial_user_attributes" VALUES(40,5,'bracket','0');
INSERT INTO "trial_user_attributes" VALUES(41,5,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(42,5,'seconds','0.046');
INSERT INTO "trial_user_attributes" VALUES(43,5,'best_accuracy','0.30158730158730157');
INSERT INTO "trial_user_attributes" VALUES(44,5,'best_epoch','1');
INSERT INTO "trial_user_attributes" VALUES(45,5,'train_accuracy','0.2255859375');
INSERT INTO "trial_user_attributes" VALUES(46,5,'epoch_seconds','0.0363');
INSERT INTO "trial_user_attributes" VALUES(47,5,'images_per_second','28231.4');
INSERT INTO "trial_user_attributes" VALUES(48,5,'why','"not_promoted"');
INSERT INTO "trial_user_attributes" VALUES(49,5,'pruned_because','"not among the best 1/3 of its bracket after 1 epoch"');
INSERT INTO "trial_user_attributes" VALUES(50,6,'num_params','40906');
INSERT INTO "trial_user_attributes" VALUES(51,6,'bracket','1');
INSERT INTO "trial_user_attributes" VALUES(52,6,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(53,6,'seconds','0.493');
INSERT INTO "trial_user_attributes" VALUES(54,6,'best_accuracy','0.996031746031746');
INSERT INTO "trial_user_attributes" VALUES(55,6,'best_epoch','6');
INSERT INTO "trial_user_attributes" VALUES(56,6,'train_accuracy','0.9755859375');
INSERT INTO "trial_user_attributes" VALUES(57,6,'epoch_seconds','0.0516');
INSERT INTO "trial_user_attributes" VALUES(58,6,'images_per_second','19843.7');
INSERT INTO "trial_user_attributes" VALUES(59,7,'num_params','18922');
INSERT INTO "trial_user_attributes" VALUES(60,7,'bracket','2');
INSERT INTO "trial_user_attributes" VALUES(61,7,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(62,7,'seconds','0.389');
INSERT INTO "trial_user_attributes" VALUES(63,7,'best_accuracy','0.996031746031746');
INSERT INTO "trial_user_attributes" VALUES(64,7,'best_epoch','8');
INSERT INTO "trial_user_attributes" VALUES(65,7,'train_accuracy','0.966796875');
INSERT INTO "trial_user_attributes" VALUES(66,7,'epoch_seconds','0.0412');
INSERT INTO "trial_user_attributes" VALUES(67,7,'images_per_second','24865.5');
INSERT INTO "trial_user_attributes" VALUES(68,8,'num_params','7322');
INSERT INTO "trial_user_attributes" VALUES(69,8,'bracket','1');
INSERT INTO "trial_user_attributes" VALUES(70,8,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(71,8,'seconds','0.105');
INSERT INTO "trial_user_attributes" VALUES(72,8,'best_accuracy','0.8968253968253969');
INSERT INTO "trial_user_attributes" VALUES(73,8,'best_epoch','3');
INSERT INTO "trial_user_attributes" VALUES(74,8,'train_accuracy','0.80078125');
INSERT INTO "trial_user_attributes" VALUES(75,8,'epoch_seconds','0.032');
INSERT INTO "trial_user_attributes" VALUES(76,8,'images_per_second','31964.9');
INSERT INTO "trial_user_attributes" VALUES(77,8,'why','"not_promoted"');
INSERT INTO "trial_user_attributes" VALUES(78,8,'pruned_because','"not among the best 1/3 of its bracket after 3 epochs"');
INSERT INTO "trial_user_attributes" VALUES(79,9,'num_params','10986');
INSERT INTO "trial_user_attributes" VALUES(80,9,'bracket','0');
INSERT INTO "trial_user_attributes" VALUES(81,9,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(82,9,'seconds','0.107');
INSERT INTO "trial_user_attributes" VALUES(83,9,'best_accuracy','0.9404761904761905');
INSERT INTO "trial_user_attributes" VALUES(84,9,'best_epoch','3');
INSERT INTO "trial_user_attributes" VALUES(85,9,'train_accuracy','0.8369140625');
INSERT INTO "trial_user_attributes" VALUES(86,9,'epoch_seconds','0.0323');
INSERT INTO "trial_user_attributes" VALUES(87,9,'images_per_second','31701.8');
INSERT INTO "trial_user_attributes" VALUES(88,9,'why','"not_promoted"');
INSERT INTO "trial_user_attributes" VALUES(89,9,'pruned_because','"not among the best 1/3 of its bracket after 3 epochs"');
INSERT INTO "trial_user_attributes" VALUES(90,10,'num_params','39434');
INSERT INTO "trial_user_attributes" VALUES(91,10,'bracket','1');
INSERT INTO "trial_user_attributes" VALUES(92,10,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(93,10,'seconds','0.419');
INSERT INTO "trial_user_attributes" VALUES(94,10,'best_accuracy','0.996031746031746');
INSERT INTO "trial_user_attributes" VALUES(95,10,'best_epoch','4');
INSERT INTO "trial_user_attributes" VALUES(96,10,'train_accuracy','0.974609375');
INSERT INTO "trial_user_attributes" VALUES(97,10,'epoch_seconds','0.044');
INSERT INTO "trial_user_attributes" VALUES(98,10,'images_per_second','23288.8');
INSERT INTO "trial_user_attributes" VALUES(99,11,'num_params','4394');
INSERT INTO "trial_user_attributes" VALUES(100,11,'bracket','2');
INSERT INTO "trial_user_attributes" VALUES(101,11,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(102,11,'seconds','0.385');
INSERT INTO "trial_user_attributes" VALUES(103,11,'best_accuracy','1.0');
INSERT INTO "trial_user_attributes" VALUES(104,11,'best_epoch','6');
INSERT INTO "trial_user_attributes" VALUES(105,11,'train_accuracy','0.978515625');
INSERT INTO "trial_user_attributes" VALUES(106,11,'epoch_seconds','0.0408');
INSERT INTO "trial_user_attributes" VALUES(107,11,'images_per_second','25120.4');
INSERT INTO "trial_user_attributes" VALUES(108,12,'num_params','39434');
INSERT INTO "trial_user_attributes" VALUES(109,12,'bracket','1');
INSERT INTO "trial_user_attributes" VALUES(110,12,'versions','{"archstudy": "0.1.0", "python": "3.11.7", "torch": "2.15.0+cu132", "optuna": "5.0.0", "device": "cpu", "threads": 2}');
INSERT INTO "trial_user_attributes" VALUES(111,12,'seconds','0.151');
INSERT INTO "trial_user_attributes" VALUES(112,12,'best_accuracy','0.9563492063492064');
INSERT INTO "trial_user_attributes" VALUES(113,12,'best_epoch','3');
INSERT INTO "trial_user_attributes" VALUES(114,12,'train_accuracy','0.91015625');
INSERT INTO "trial_user_attributes" VALUES(115,12,'epoch_seconds','0.0455');
INSERT INTO "trial_user_attributes" VALUES(116,12,'images_per_second','22513.7');
INSERT INTO "trial_user_attributes" VALUES(117,12,'why','"not_promoted"');
INSERT INTO "trial_user_attributes" VALUES(118,12,'pruned_because','"not among the best 1/3 of its bracket after 3 epochs"');
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
INSERT INTO "trial_values" VALUES(1,1,0,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_values" VALUES(2,2,0,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_values" VALUES(3,3,0,9.44444444444444419772e-01,'FINITE');
INSERT INTO "trial_values" VALUES(4,4,0,9.84126984126984072354e-01,'FINITE');
INSERT INTO "trial_values" VALUES(5,5,0,3.0158730158730157056e-01,'FINITE');
INSERT INTO "trial_values" VALUES(6,6,0,9.92063492063492091688e-01,'FINITE');
INSERT INTO "trial_values" VALUES(7,7,0,0.996031746031746,'FINITE');
INSERT INTO "trial_values" VALUES(8,8,0,8.96825396825396858879e-01,'FINITE');
INSERT INTO "trial_values" VALUES(9,9,0,9.40476190476190465616e-01,'FINITE');
INSERT INTO "trial_values" VALUES(10,10,0,0.996031746031746,'FINITE');
INSERT INTO "trial_values" VALUES(11,11,0,0.996031746031746,'FINITE');
INSERT INTO "trial_values" VALUES(12,12,0,9.56349206349206393262e-01,'FINITE');
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
INSERT INTO "trials" VALUES(1,0,1,'COMPLETE','2026-11-27 15:44:26.389003','2026-11-27 15:44:27.798086');
INSERT INTO "trials" VALUES(2,1,1,'COMPLETE','2026-11-27 15:44:27.804490','2026-11-27 15:44:28.323854');
INSERT INTO "trials" VALUES(3,2,1,'PRUNED','2026-11-27 15:44:28.329207','2026-11-27 15:44:28.444673');
INSERT INTO "trials" VALUES(4,3,1,'COMPLETE','2026-11-27 15:44:28.449398','2026-11-27 15:44:28.785258');
INSERT INTO "trials" VALUES(5,4,1,'PRUNED','2026-11-27 15:44:28.790614','2026-11-27 15:44:28.841763');
INSERT INTO "trials" VALUES(6,5,1,'COMPLETE','2026-11-27 15:44:28.846815','2026-11-27 15:44:29.346803');
INSERT INTO "trials" VALUES(7,6,1,'COMPLETE','2026-11-27 15:44:29.351754','2026-11-27 15:44:29.752742');
INSERT INTO "trials" VALUES(8,7,1,'PRUNED','2026-11-27 15:44:29.757437','2026-11-27 15:44:29.867258');
INSERT INTO "trials" VALUES(9,8,1,'PRUNED','2026-11-27 15:44:29.871779','2026-11-27 15:44:29.983514');
INSERT INTO "trials" VALUES(10,9,1,'COMPLETE','2026-11-27 15:44:29.988174','2026-11-27 15:44:30.414008');
INSERT INTO "trials" VALUES(11,10,1,'COMPLETE','2026-11-27 15:44:30.418698','2026-11-27 15:44:30.812253');
INSERT INTO "trials" VALUES(12,11,1,'PRUNED','2026-11-27 15:44:30.816981','2026-11-27 15:44:30.974415');
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
CREATE VIEW trials_flat AS SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id,
  CAST(t.state AS TEXT) AS state,
  (SELECT CASE v.value_type WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE v.value END FROM trial_values v WHERE v.trial_id = t.trial_id AND v.objective = 0) AS value,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS REAL) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'best_accuracy') AS best_accuracy,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'best_epoch') AS best_epoch,
  (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS epochs_trained,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS REAL) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'seconds') AS seconds,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'bracket') AS bracket,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('text') THEN CAST(json_extract(u.value_json, '$') AS TEXT) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'why') AS why,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('text') THEN CAST(json_extract(u.value_json, '$') AS TEXT) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'pruned_because') AS pruned_because,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('text') THEN CAST(json_extract(u.value_json, '$') AS TEXT) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'failed_because') AS failed_because,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'num_params') AS num_params,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS REAL) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'train_accuracy') AS train_accuracy,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS REAL) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'images_per_second') AS images_per_second,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('true', 'false') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'leaky') AS leaky,
  (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('true', 'false') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'baseline') AS baseline,
  t.datetime_start AS started, t.datetime_complete AS ended,
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'conv_dropout') AS "conv_dropout",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'dense_units') AS "dense_units",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'filters_multiplier') AS "filters_multiplier",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'kernel_sizes') AS "kernel_sizes",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'learning_rate') AS "learning_rate",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'num_conv_blocks') AS "num_conv_blocks",
  (SELECT CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END FROM trial_params p WHERE p.trial_id = t.trial_id AND p.param_name = 'use_batch_norm') AS "use_batch_norm"
FROM trials t JOIN studies s ON s.study_id = t.study_id;
CREATE VIEW epochs AS WITH RECURSIVE c AS (SELECT u.study_id, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.min_epochs') AS INTEGER) END AS min_epochs,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.epochs') AS INTEGER) END AS epochs, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.eta') AS INTEGER) END AS eta,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.pruner') AS TEXT) END AS pruner, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.protocol') AS TEXT) END AS protocol,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.data') AS TEXT) END AS data, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.hours') AS REAL) END AS hours,
    (SELECT CASE WHEN json_valid(k.value_json) THEN CAST(json_extract(k.value_json, '$.seconds') AS REAL) END FROM study_user_attributes k
      WHERE k.study_id = u.study_id AND k.key = 'clock') AS clock
    FROM study_user_attributes u JOIN study_user_attributes o ON o.study_id = u.study_id AND o.key = 'contract'
    WHERE u.key = 'config'),
  r(study_id, place, epoch) AS (
    SELECT study_id, 0, min_epochs FROM c WHERE pruner = 'hyperband'
    UNION ALL SELECT c.study_id, r.place + 1, r.epoch * c.eta FROM r JOIN c ON c.study_id = r.study_id
      WHERE r.epoch * c.eta < c.epochs)
SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id, i.step AS epoch,
  CASE i.intermediate_value_type WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE i.intermediate_value END AS accuracy,
  EXISTS (SELECT 1 FROM r JOIN c ON c.study_id = r.study_id
    WHERE r.study_id = t.study_id AND r.epoch = i.step AND i.step < c.epochs
      AND r.place >= (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'bracket')) AS rung
FROM trial_intermediate_values i JOIN trials t ON t.trial_id = i.trial_id JOIN studies s ON s.study_id = t.study_id;
CREATE VIEW params AS SELECT s.study_name AS study, t.number AS number, t.trial_id AS trial_id,
  CAST(p.param_name AS TEXT) AS name,
  CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
      IN ('true', 'false')
      THEN json_type(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    ELSE CAST(CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END AS TEXT) END AS value,
  CASE WHEN typeof(CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END) IN ('integer', 'real') THEN CAST(CASE
    WHEN json_valid(p.distribution_json) = 0 THEN NULL
    WHEN json_extract(p.distribution_json, '$.name') = 'CategoricalDistribution'
      THEN json_extract(p.distribution_json, '$.attributes.choices[' || CAST(p.param_value AS INTEGER) || ']')
    WHEN json_extract(p.distribution_json, '$.name') LIKE 'Int%' THEN CAST(p.param_value AS INTEGER)
    ELSE p.param_value END AS REAL) END AS value_number,
  CASE WHEN p.distribution_json LIKE '{"name": "Cat%' THEN 'categorical'
    WHEN p.distribution_json LIKE '{"name": "Int%' THEN 'int' ELSE 'float' END AS distribution,
  (p.distribution_json LIKE '{"name": "LogUniform%'
    OR p.distribution_json LIKE '{"name": "IntLog%' OR (p.distribution_json NOT LIKE '{"name": "Cat%'
    AND p.distribution_json LIKE '%"log": true%')) AS log
FROM trial_params p JOIN trials t ON t.trial_id = p.trial_id JOIN studies s ON s.study_id = t.study_id;
CREATE VIEW rungs AS WITH RECURSIVE c AS (SELECT u.study_id, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.min_epochs') AS INTEGER) END AS min_epochs,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.epochs') AS INTEGER) END AS epochs, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.eta') AS INTEGER) END AS eta,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.pruner') AS TEXT) END AS pruner, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.protocol') AS TEXT) END AS protocol,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.data') AS TEXT) END AS data, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.hours') AS REAL) END AS hours,
    (SELECT CASE WHEN json_valid(k.value_json) THEN CAST(json_extract(k.value_json, '$.seconds') AS REAL) END FROM study_user_attributes k
      WHERE k.study_id = u.study_id AND k.key = 'clock') AS clock
    FROM study_user_attributes u JOIN study_user_attributes o ON o.study_id = u.study_id AND o.key = 'contract'
    WHERE u.key = 'config'),
  r(study_id, place, epoch) AS (
    SELECT study_id, 0, min_epochs FROM c WHERE pruner = 'hyperband' AND min_epochs < epochs
    UNION ALL SELECT c.study_id, r.place + 1, r.epoch * c.eta FROM r JOIN c ON c.study_id = r.study_id
      WHERE r.epoch * c.eta < c.epochs),
  n AS (SELECT t.trial_id, t.study_id, (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS INTEGER) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'bracket') AS bracket,
    (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS trained FROM trials t)
SELECT s.study_name AS study, n.bracket AS bracket, r.epoch AS rung, count(*) AS entered,
  count(CASE WHEN n.trained > r.epoch THEN 1 END) AS promoted,
  min(CASE WHEN n.trained > r.epoch THEN (SELECT CASE i.intermediate_value_type WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE i.intermediate_value END
    FROM trial_intermediate_values i WHERE i.trial_id = n.trial_id AND i.step = r.epoch) END) AS threshold
FROM n JOIN r ON r.study_id = n.study_id AND r.place >= n.bracket AND n.trained >= r.epoch
  JOIN studies s ON s.study_id = n.study_id
GROUP BY s.study_name, n.bracket, r.epoch;
CREATE VIEW studies_overview AS WITH c AS (SELECT u.study_id, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.min_epochs') AS INTEGER) END AS min_epochs,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.epochs') AS INTEGER) END AS epochs, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.eta') AS INTEGER) END AS eta,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.pruner') AS TEXT) END AS pruner, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.protocol') AS TEXT) END AS protocol,
    CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.data') AS TEXT) END AS data, CASE WHEN json_valid(u.value_json) THEN CAST(json_extract(u.value_json, '$.hours') AS REAL) END AS hours,
    (SELECT CASE WHEN json_valid(k.value_json) THEN CAST(json_extract(k.value_json, '$.seconds') AS REAL) END FROM study_user_attributes k
      WHERE k.study_id = u.study_id AND k.key = 'clock') AS clock
    FROM study_user_attributes u JOIN study_user_attributes o ON o.study_id = u.study_id AND o.key = 'contract'
    WHERE u.key = 'config'),
  n AS (SELECT t.trial_id, t.study_id, t.number, CAST(t.state AS TEXT) AS state,
    (SELECT CASE WHEN json_valid(u.value_json) THEN CASE WHEN json_type(u.value_json) IN ('integer', 'real') THEN CAST(json_extract(u.value_json, '$') AS REAL) END END FROM trial_user_attributes u WHERE u.trial_id = t.trial_id AND u.key = 'seconds') AS seconds,
    t.datetime_start AS began, t.datetime_complete AS ended,
    (SELECT count(*) FROM trial_intermediate_values i WHERE i.trial_id = t.trial_id) AS trained,
    (SELECT CASE v.value_type WHEN 'INF_POS' THEN 9e999 WHEN 'INF_NEG' THEN -9e999 ELSE v.value END FROM trial_values v WHERE v.trial_id = t.trial_id AND v.objective = 0) AS value,
    max(t.datetime_complete) OVER (PARTITION BY t.study_id ORDER BY t.datetime_start, t.trial_id
      ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS covered
    FROM trials t),
  b AS (SELECT n.study_id, n.number, n.value, row_number() OVER (PARTITION BY n.study_id
      ORDER BY CASE WHEN CAST(d.direction AS TEXT) = 'MINIMIZE' THEN n.value ELSE -n.value END, n.number) AS place
    FROM n JOIN study_directions d ON d.study_id = n.study_id AND d.objective = 0
    WHERE n.state = 'COMPLETE' AND n.value IS NOT NULL),
  a AS (SELECT n.study_id, count(*) AS trials, count(CASE WHEN n.state = 'COMPLETE' THEN 1 END) AS complete,
    count(CASE WHEN n.state = 'PRUNED' THEN 1 END) AS pruned,
    count(CASE WHEN n.state = 'RUNNING' THEN 1 END) AS running,
    count(CASE WHEN n.state = 'WAITING' THEN 1 END) AS waiting,
    count(CASE WHEN n.state = 'FAIL' THEN 1 END) AS failed,
    CAST(sum(n.trained) AS BIGINT) AS trained,
    CAST(sum(CASE WHEN n.state = 'PRUNED' THEN c.epochs - n.trained WHEN c.epochs IS NOT NULL THEN 0 END) AS BIGINT)
      AS saved,
    sum(n.seconds) AS seconds, min(n.began) AS first_start, max(n.ended) AS last_end,
    sum(CASE WHEN n.ended IS NULL OR n.began IS NULL OR n.ended < n.began THEN 0.0
      WHEN n.covered IS NULL OR n.covered <= n.began THEN (julianday(n.ended) - julianday(n.began)) * 86400.0
      WHEN n.covered < n.ended THEN (julianday(n.ended) - julianday(n.covered)) * 86400.0 ELSE 0.0 END) AS wall
    FROM n LEFT JOIN c ON c.study_id = n.study_id GROUP BY n.study_id)
SELECT s.study_name AS study, c.protocol AS protocol, c.data AS data, coalesce(a.trials, 0) AS trials,
  coalesce(a.complete, 0) AS complete, coalesce(a.pruned, 0) AS pruned, coalesce(a.running, 0) AS running,
  coalesce(a.waiting, 0) AS waiting, coalesce(a.failed, 0) AS failed, b.number AS best_trial, b.value AS best_value,
  coalesce(a.trained, 0) AS epochs_spent, a.saved AS epochs_saved, a.seconds AS seconds, a.wall AS wall_seconds,
  c.hours AS hours, c.clock AS clock_seconds,
  a.first_start AS first_start, a.last_end AS last_end
FROM studies s LEFT JOIN c ON c.study_id = s.study_id LEFT JOIN a ON a.study_id = s.study_id
  LEFT JOIN b ON b.study_id = s.study_id AND b.place = 1;
CREATE VIEW models AS SELECT s.study_name AS study, CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.trial') AS INTEGER) END AS trial,
  CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.accuracy') AS REAL) END AS accuracy, CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.low') AS REAL) END AS low,
  CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.high') AS REAL) END AS high, CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.leaky') AS INTEGER) END AS leaky,
  CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.path') AS TEXT) END AS path, CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.opening') AS INTEGER) END AS opening,
  (SELECT count(*) FROM study_user_attributes o, json_each(CASE WHEN json_valid(o.value_json) THEN o.value_json ELSE '[]' END) e
    WHERE o.study_id = s.study_id AND o.key = 'openings') AS openings,
  (SELECT max(CASE WHEN json_valid(e.value) THEN CAST(json_extract(e.value, '$.time') AS TEXT) END) FROM study_user_attributes o, json_each(CASE WHEN json_valid(o.value_json) THEN o.value_json ELSE '[]' END) e
    WHERE o.study_id = s.study_id AND o.key = 'openings'
      AND CASE WHEN json_valid(e.value) THEN CAST(json_extract(e.value, '$.number') AS INTEGER) END = CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.opening') AS INTEGER) END) AS opened,
  CASE WHEN json_valid(m.value) THEN CAST(json_extract(m.value, '$.weights_sha256') AS TEXT) END AS weights_sha256
FROM studies s JOIN study_user_attributes c ON c.study_id = s.study_id AND c.key = 'contract'
  JOIN study_user_attributes u ON u.study_id = s.study_id AND u.key = 'models', json_each(CASE WHEN json_valid(u.value_json) THEN u.value_json ELSE '[]' END) m;
COMMIT;
