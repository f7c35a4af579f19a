BEGIN TRANSACTION;
CREATE TABLE alerts (
	run_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	cursor BIGINT NOT NULL, 
	title TEXT NOT NULL, 
	text TEXT NOT NULL, 
	level INTEGER NOT NULL, 
	time_unix_nano BIGINT NOT NULL, 
	PRIMARY KEY (run_id, number), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
)
 WITHOUT ROWID

;
INSERT INTO "alerts" VALUES('run',0,2,'t','',2,6);
CREATE TABLE artifact_aliases (
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	alias TEXT NOT NULL, 
	artifact_id INTEGER NOT NULL, 
	PRIMARY KEY (project, name, alias), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (artifact_id)
)
 WITHOUT ROWID

;
INSERT INTO "artifact_aliases" VALUES('demo','model','latest',1);
CREATE TABLE artifact_files (
	artifact_id INTEGER NOT NULL, 
	name TEXT NOT NULL, 
	sha256 BLOB NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	reference_uri TEXT NOT NULL, 
	PRIMARY KEY (artifact_id, name), 
	FOREIGN KEY(artifact_id) REFERENCES artifacts (artifact_id)
)
 WITHOUT ROWID

;
INSERT INTO "artifact_files" VALUES(1,'w.bin',X'0101010101010101010101010101010101010101010101010101010101010101',3,'');
CREATE TABLE artifact_runs (
	run_id TEXT NOT NULL, 
	is_maker BOOLEAN NOT NULL, 
	reference TEXT NOT NULL, 
	artifact_id INTEGER, 
	cursor BIGINT NOT NULL, 
	time_unix_nano BIGINT NOT NULL, 
	PRIMARY KEY (run_id, is_maker, reference), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
)
 WITHOUT ROWID

;
INSERT INTO "artifact_runs" VALUES('run',0,'model:v0',1,3,8);
INSERT INTO "artifact_runs" VALUES('run',1,'model:v0',1,3,7);
CREATE TABLE artifacts (
	artifact_id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	version INTEGER NOT NULL, 
	type TEXT NOT NULL, 
	sha256 BLOB NOT NULL, 
	metadata TEXT NOT NULL, 
	description TEXT NOT NULL, 
	registry_links TEXT NOT NULL, 
	run_id TEXT NOT NULL, 
	time_unix_nano BIGINT NOT NULL, 
	file_count INTEGER NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	UNIQUE (project, name, version)
);
INSERT INTO "artifacts" VALUES(1,'demo','model',0,'model',X'F621D0E7AA6CADAEDAEBB64AC01763A4805BCE5D49FA95852B1B95F48109A27E','{}','','[]','run',7,1,3);
CREATE TABLE chunks (
	chunk_id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	offset_bytes BIGINT NOT NULL, 
	size_bytes BIGINT NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (chunk_id), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
CREATE TABLE columns (
	segment_id INTEGER NOT NULL, 
	position INTEGER NOT NULL, 
	minimum DOUBLE, 
	maximum DOUBLE, 
	nan_count INTEGER NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (segment_id, position), 
	FOREIGN KEY(segment_id) REFERENCES segments (segment_id)
)
 WITHOUT ROWID

;
INSERT INTO "columns" VALUES(1,0,0.25,1.0,1,X'000000000000F03F000000000000F87F000000000000D03F');
CREATE TABLE console (
	run_id TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	cursor BIGINT NOT NULL, 
	stream INTEGER NOT NULL, 
	time_unix_nano BIGINT NOT NULL, 
	lines TEXT NOT NULL, 
	PRIMARY KEY (run_id, number), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
)
 WITHOUT ROWID

;
INSERT INTO "console" VALUES('run',0,2,1,5,'["x"]');
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
INSERT INTO "meta" VALUES('store_format','3');
CREATE TABLE runs (
	run_id TEXT NOT NULL, 
	project TEXT NOT NULL, 
	name TEXT NOT NULL, 
	"group" TEXT NOT NULL, 
	job_type TEXT NOT NULL, 
	tags TEXT NOT NULL, 
	notes TEXT NOT NULL, 
	config TEXT NOT NULL, 
	summary TEXT NOT NULL, 
	environment TEXT NOT NULL, 
	state INTEGER NOT NULL, 
	reason TEXT NOT NULL, 
	exit_code INTEGER, 
	start_time_unix_nano BIGINT NOT NULL, 
	end_time_unix_nano BIGINT, 
	row_count BIGINT NOT NULL, 
	last_step BIGINT, 
	lost_row_count BIGINT NOT NULL, 
	cursor BIGINT NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	dataset TEXT DEFAULT '' NOT NULL, 
	use_case TEXT DEFAULT '' NOT NULL, 
	definitions TEXT DEFAULT '[]' NOT NULL, 
	wandb TEXT DEFAULT '{}' NOT NULL, 
	PRIMARY KEY (run_id)
);
INSERT INTO "runs" VALUES('run','demo','first','','','["a"]','','{"lr":0.5}','{}','{"host":"node","process":null,"program":"","python_version":"","platform":"","client_version":"","arguments":[],"git":null,"packages":[],"gpus":[],"cpu_count":0,"memory_bytes":0}',2,'',0,1000,9,3,2,0,4,'','','','[]','{"mode":2,"entity":"","credential":""}');
CREATE TABLE segments (
	segment_id INTEGER NOT NULL, 
	signature_id INTEGER NOT NULL, 
	first_ordinal BIGINT NOT NULL, 
	last_ordinal BIGINT NOT NULL, 
	row_count INTEGER NOT NULL, 
	ordinals BLOB NOT NULL, 
	steps BLOB NOT NULL, 
	times_unix_nano BLOB NOT NULL, 
	PRIMARY KEY (segment_id), 
	FOREIGN KEY(signature_id) REFERENCES signatures (signature_id)
);
INSERT INTO "segments" VALUES(1,1,0,2,3,X'000000000000000001000000000000000200000000000000',X'000000000000000001000000000000000200000000000000',X'000000000000000001000000000000000200000000000000');
CREATE TABLE signatures (
	signature_id INTEGER NOT NULL, 
	run_id TEXT NOT NULL, 
	metrics TEXT NOT NULL, 
	last_ordinal BIGINT NOT NULL, 
	last_values TEXT NOT NULL, 
	first_ordinal BIGINT, 
	figures BLOB, 
	PRIMARY KEY (signature_id), 
	FOREIGN KEY(run_id) REFERENCES runs (run_id)
);
INSERT INTO "signatures" VALUES(1,'run','[["loss","d"]]',2,'[0.25]',0,X'0000000000000040000000000000F43F000000000000D03F000000000000F03F000000000000F03F');
CREATE INDEX runs_by_time ON runs (start_time_unix_nano, run_id);
CREATE INDEX runs_by_project ON runs (project, start_time_unix_nano, run_id);
CREATE INDEX ix_signatures_run_id ON signatures (run_id);
CREATE INDEX chunks_by_file ON chunks (run_id, sha256, offset_bytes);
CREATE INDEX ix_artifact_aliases_artifact_id ON artifact_aliases (artifact_id);
CREATE INDEX ix_artifact_runs_artifact_id ON artifact_runs (artifact_id);
CREATE INDEX segments_by_signature ON segments (signature_id, segment_id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('artifacts',1);
COMMIT;
