PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE studies (
	study_id INTEGER NOT NULL, 
	study_name VARCHAR(512) NOT NULL, 
	PRIMARY KEY (study_id)
);
INSERT INTO studies VALUES(1,'old');
CREATE TABLE version_info (
	version_info_id INTEGER NOT NULL, 
	schema_version INTEGER, 
	library_version VARCHAR(256), 
	PRIMARY KEY (version_info_id), 
	CHECK (version_info_id=1)
);
INSERT INTO version_info VALUES(1,12,'4.4.0');
CREATE TABLE study_directions (
	study_direction_id INTEGER NOT NULL, 
	direction VARCHAR(8) NOT NULL, 
	study_id INTEGER NOT NULL, 
	objective INTEGER NOT NULL, 
	PRIMARY KEY (study_direction_id), 
	UNIQUE (study_id, objective), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
INSERT INTO study_directions VALUES(1,'MAXIMIZE',1,0);
CREATE TABLE study_user_attributes (
	study_user_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_user_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
CREATE TABLE study_system_attributes (
	study_system_attribute_id INTEGER NOT NULL, 
	study_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (study_system_attribute_id), 
	UNIQUE (study_id, "key"), 
	FOREIGN KEY(study_id) REFERENCES studies (study_id)
);
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
INSERT INTO trials VALUES(1,0,1,'COMPLETE','2026-11-24 11:48:50.501372','2026-11-24 11:48:50.528892');
INSERT INTO trials VALUES(2,1,1,'COMPLETE','2026-11-24 11:48:50.539629','2026-11-24 11:48:50.557668');
INSERT INTO trials VALUES(3,2,1,'PRUNED','2026-11-24 11:48:50.564805','2026-11-24 11:48:50.582341');
INSERT INTO trials VALUES(4,3,1,'COMPLETE','2026-11-24 11:48:50.588737','2026-11-24 11:48:50.606332');
INSERT INTO trials VALUES(5,4,1,'WAITING',NULL,NULL);
CREATE TABLE trial_user_attributes (
	trial_user_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_user_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE trial_system_attributes (
	trial_system_attribute_id INTEGER NOT NULL, 
	trial_id INTEGER, 
	"key" VARCHAR(512), 
	value_json TEXT, 
	PRIMARY KEY (trial_system_attribute_id), 
	UNIQUE (trial_id, "key"), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
INSERT INTO trial_system_attributes VALUES(1,5,'fixed_params','{"depth": 2}');
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
INSERT INTO trial_params VALUES(1,1,'rate',0.004430375245218268719,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO trial_params VALUES(2,1,'kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3", "5-3"]}}');
INSERT INTO trial_params VALUES(3,1,'depth',3.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO trial_params VALUES(4,1,'norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO trial_params VALUES(5,2,'rate',0.0020547625125911361115,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO trial_params VALUES(6,2,'kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3", "5-3"]}}');
INSERT INTO trial_params VALUES(7,2,'depth',2.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO trial_params VALUES(8,2,'norm',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO trial_params VALUES(9,3,'rate',0.0050598038746604368301,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO trial_params VALUES(10,3,'kernel',0.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3", "5-3"]}}');
INSERT INTO trial_params VALUES(11,3,'depth',1.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO trial_params VALUES(12,3,'norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
INSERT INTO trial_params VALUES(13,4,'rate',0.021600820741402057545,'{"name": "FloatDistribution", "attributes": {"step": null, "low": 0.0001, "high": 0.1, "log": true}}');
INSERT INTO trial_params VALUES(14,4,'kernel',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": ["3-3", "5-3"]}}');
INSERT INTO trial_params VALUES(15,4,'depth',4.0,'{"name": "IntDistribution", "attributes": {"log": false, "step": 1, "low": 1, "high": 4}}');
INSERT INTO trial_params VALUES(16,4,'norm',1.0,'{"name": "CategoricalDistribution", "attributes": {"choices": [true, false]}}');
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
INSERT INTO trial_values VALUES(1,1,0,0.004430375245218268719,'FINITE');
INSERT INTO trial_values VALUES(2,2,0,0.0020547625125911361115,'FINITE');
INSERT INTO trial_values VALUES(3,3,0,0.015179411623981311357,'FINITE');
INSERT INTO trial_values VALUES(4,4,0,NULL,'INF_NEG');
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
INSERT INTO trial_intermediate_values VALUES(1,1,1,0.004430375245218268719,'FINITE');
INSERT INTO trial_intermediate_values VALUES(2,1,2,0.0088607504904365374381,'FINITE');
INSERT INTO trial_intermediate_values VALUES(3,1,3,0.013291125735654805289,'FINITE');
INSERT INTO trial_intermediate_values VALUES(4,2,1,0.0020547625125911361115,'FINITE');
INSERT INTO trial_intermediate_values VALUES(5,2,2,NULL,'INF_POS');
INSERT INTO trial_intermediate_values VALUES(6,2,3,0.0061642875377734083347,'FINITE');
INSERT INTO trial_intermediate_values VALUES(7,3,1,0.0050598038746604368301,'FINITE');
INSERT INTO trial_intermediate_values VALUES(8,3,2,0.01011960774932087366,'FINITE');
INSERT INTO trial_intermediate_values VALUES(9,3,3,0.015179411623981311357,'FINITE');
INSERT INTO trial_intermediate_values VALUES(10,4,1,0.021600820741402057545,'FINITE');
INSERT INTO trial_intermediate_values VALUES(11,4,2,0.04320164148280411509,'FINITE');
INSERT INTO trial_intermediate_values VALUES(12,4,3,0.064802462224206172636,'FINITE');
CREATE TABLE trial_heartbeats (
	trial_heartbeat_id INTEGER NOT NULL, 
	trial_id INTEGER NOT NULL, 
	heartbeat DATETIME NOT NULL, 
	PRIMARY KEY (trial_heartbeat_id), 
	UNIQUE (trial_id), 
	FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO alembic_version VALUES('v3.2.0.a');
CREATE UNIQUE INDEX ix_studies_study_name ON studies (study_name);
CREATE INDEX ix_trials_study_id ON trials (study_id);
COMMIT;
