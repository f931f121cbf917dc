CREATE TABLE association_studies (
	association_id VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	PRIMARY KEY (association_id, study_instance_uid)
);
CREATE TABLE associations (
	association_id VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	called_ae_title VARCHAR(16) NOT NULL, 
	peer_address VARCHAR(64) NOT NULL, 
	opened_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	closed_at TIMESTAMP WITH TIME ZONE, 
	PRIMARY KEY (association_id)
);
CREATE INDEX ix_associations_closed_at ON associations (closed_at);
CREATE TABLE deployments (
	role VARCHAR(16) NOT NULL, 
	sequence INTEGER NOT NULL, 
	action VARCHAR(16) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	number INTEGER, 
	name TEXT NOT NULL, 
	version TEXT NOT NULL, 
	deployed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	by TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	forced BOOLEAN NOT NULL, 
	previous_digest VARCHAR(64) NOT NULL, 
	PRIMARY KEY (role, sequence)
);
CREATE TABLE instances (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	association_id VARCHAR(64) NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	path TEXT NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	received_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	revision INTEGER, 
	PRIMARY KEY (sop_instance_uid)
);
CREATE INDEX instances_by_revision ON instances (revision);
CREATE INDEX instances_by_study ON instances (study_instance_uid, revision);
CREATE TABLE model_swaps (
	swap_id SERIAL NOT NULL, 
	at TIMESTAMP WITH TIME ZONE NOT NULL, 
	process VARCHAR(64) NOT NULL, 
	wanted VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	version TEXT NOT NULL, 
	trouble TEXT, 
	PRIMARY KEY (swap_id)
);
CREATE TABLE observations (
	task_id VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	model_name TEXT NOT NULL, 
	model_version TEXT NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	probability FLOAT NOT NULL, 
	threshold FLOAT NOT NULL, 
	positive BOOLEAN NOT NULL, 
	near_threshold BOOLEAN NOT NULL, 
	distance FLOAT, 
	far BOOLEAN, 
	statistics TEXT NOT NULL, 
	heatmap BYTEA, 
	seconds FLOAT NOT NULL, 
	observed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (task_id, sop_instance_uid, digest)
);
CREATE INDEX observations_by_model ON observations (digest, observed_at);
CREATE TABLE quarantine (
	quarantine_id SERIAL NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	quarantined_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (quarantine_id)
);
CREATE TABLE shadow_work (
	task_id VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	reason VARCHAR(200), 
	changed_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (task_id, digest)
);
CREATE TABLE studies (
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason TEXT, 
	ready_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	finished_at TIMESTAMP WITH TIME ZONE, 
	PRIMARY KEY (study_instance_uid, revision)
);
CREATE INDEX ix_studies_state ON studies (state);
CREATE TABLE verdicts (
	verdict_id SERIAL NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	decisions TEXT NOT NULL, 
	model TEXT NOT NULL, 
	opinion VARCHAR(16) NOT NULL, 
	reader VARCHAR(64) NOT NULL, 
	note VARCHAR(16), 
	given_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	PRIMARY KEY (verdict_id)
);
CREATE INDEX ix_verdicts_study_instance_uid ON verdicts (study_instance_uid);
CREATE TABLE tasks (
	task_id VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	revision INTEGER NOT NULL, 
	route TEXT NOT NULL, 
	selected TEXT NOT NULL, 
	reason TEXT, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	given_up TEXT, 
	submitted_at TIMESTAMP WITH TIME ZONE, 
	owner VARCHAR(64), 
	lease_until TIMESTAMP WITH TIME ZONE, 
	leased_at TIMESTAMP WITH TIME ZONE, 
	finished_at TIMESTAMP WITH TIME ZONE, 
	outcome VARCHAR(16), 
	outcome_reason TEXT, 
	PRIMARY KEY (task_id), 
	FOREIGN KEY(study_instance_uid, revision) REFERENCES studies (study_instance_uid, revision)
);
CREATE INDEX ix_tasks_state ON tasks (state);
CREATE INDEX tasks_by_study ON tasks (study_instance_uid, revision);
CREATE TABLE deliveries (
	delivery_id VARCHAR(64) NOT NULL, 
	task_id VARCHAR(64) NOT NULL, 
	kind VARCHAR(64) NOT NULL, 
	fallback VARCHAR(64), 
	reserve BOOLEAN NOT NULL, 
	stand_in VARCHAR(64), 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	path TEXT NOT NULL, 
	destination TEXT NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	created_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	next_attempt_at TIMESTAMP WITH TIME ZONE NOT NULL, 
	last_error TEXT, 
	status INTEGER, 
	submitted_at TIMESTAMP WITH TIME ZONE, 
	owner VARCHAR(64), 
	lease_until TIMESTAMP WITH TIME ZONE, 
	finished_at TIMESTAMP WITH TIME ZONE, 
	PRIMARY KEY (delivery_id), 
	FOREIGN KEY(task_id) REFERENCES tasks (task_id)
);
CREATE INDEX deliveries_due ON deliveries (state, next_attempt_at);
CREATE INDEX ix_deliveries_task_id ON deliveries (task_id);
