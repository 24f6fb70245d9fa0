//! One SQLite database (a file, or memory) that the SQLite store and the embedded broker share: one writer, a few readers.
//!
//! SQLite takes one writer at a time anyway. With one writing connection the waiting happens in the pool, fairly and without `SQLITE_BUSY`.
//! Who writes begins with `begin_with("BEGIN IMMEDIATE")`, so that a foreign tool on the file makes it wait and not fail halfway.

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use std::fs::{File, Metadata, TryLockError};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a connection waits for a lock that somebody outside this process holds, and a caller for a connection.
const PATIENCE: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// The write-ahead log is cut back to this size, in bytes, once it has been larger.
const LOG_SIZE: &str = "67108864";
/// How often it is looked whether the file is still there.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    File(PathBuf),
    /// Gone when the last clone of the [`Database`] is.
    Memory,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot create {path}: {reason}; choose a directory that this user may write to", path = path.display())]
    Create { path: PathBuf, reason: std::io::Error },
    #[error("another process uses {path}: end it, or choose another file", path = path.display())]
    InUse { path: PathBuf },
    #[error("cannot open the database {place}: {reason}")]
    Open { place: String, reason: sqlx::Error },
}

/// The open database. Cheap to clone; the file stays this process's own until the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Database {
    /// One connection.
    pub writer: SqlitePool,
    /// Connections that cannot write. In memory it is the writer's pool: whoever holds the writer must not wait for a reader.
    pub readers: SqlitePool,
    /// None: in memory.
    file: Option<Arc<OwnFile>>,
}

/// The database's file and the lock beside it, as they were opened. Both can be deleted under a process that has them open: it would go
/// on writing to what nobody can read any more, and a second process would find neither file nor lock.
#[derive(Debug)]
struct OwnFile {
    opened: [(PathBuf, FileId); 2],
    /// When it was last looked, and the one that was not there.
    seen: Mutex<Option<(Instant, Option<PathBuf>)>>,
    _lock: File,
}

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(facts: &Metadata) -> FileId {
        FileId(facts.dev(), facts.ino())
    }
}

impl OwnFile {
    fn new(path: &Path, lock: File) -> std::io::Result<OwnFile> {
        let opened = [(path.into(), FileId::of(&path.metadata()?)), (lock_of(path), FileId::of(&lock.metadata()?))];
        Ok(OwnFile { opened, seen: Mutex::default(), _lock: lock })
    }

    /// The one in whose place there is nothing any more, or another one. Where it cannot be looked it is taken to be there.
    fn missing(&self) -> Option<PathBuf> {
        let gone = |(path, id): &&(PathBuf, FileId)| match path.metadata() {
            Ok(facts) => FileId::of(&facts) != *id,
            Err(error) => matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory),
        };
        self.opened.iter().find(gone).map(|(path, _)| path.clone())
    }

    /// As it was when it was last looked, which is not long ago.
    fn missing_lately(&self) -> Option<PathBuf> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &*seen {
            Some((at, missing)) if at.elapsed() < LOOK => missing.clone(),
            _ => {
                let missing = self.missing();
                *seen = Some((Instant::now(), missing.clone()));
                missing
            }
        }
    }
}

impl Database {
    /// Opens the database, and creates it with its directory where it is missing.
    pub async fn open(place: &Place) -> Result<Database, OpenError> {
        match place {
            Place::File(path) => Database::file(path).await,
            Place::Memory => Database::memory().await,
        }
    }

    async fn file(path: &Path) -> Result<Database, OpenError> {
        let lock = lock(path)?;
        let options = options().filename(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let failed = |reason| OpenError::Open { place: path.display().to_string(), reason };
        // The writer comes first: it makes the file and sets the journal mode, which readers cannot.
        let writer = only_between_transactions(pool(1)).connect_with(options.clone()).await.map_err(failed)?;
        let readers = pool(READERS).connect_with(options.pragma("query_only", "true")).await.map_err(failed)?;
        let file = OwnFile::new(path, lock).map_err(|reason| failed(reason.into()))?;
        Ok(Database { writer, readers, file: Some(Arc::new(file)) })
    }

    async fn memory() -> Result<Database, OpenError> {
        let failed = |reason| OpenError::Open { place: "in memory".into(), reason };
        let writer = pool(1).connect_with(options().filename(":memory:")).await.map_err(failed)?;
        Ok(Database { readers: writer.clone(), writer, file: None })
    }

    /// Why nothing that is written from now on will be found again, if so. It costs little to ask: it is looked once a second at most.
    pub fn gone(&self) -> Option<String> {
        let missing = self.file.as_ref()?.missing_lately()?;
        Some(format!(
            "its file {} was deleted or replaced while it was in use, so that what is written now would be lost: end this process and \
             start it again",
            missing.display()
        ))
    }

    /// Ends all connections, the log folded into the file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Makes a file this process's own, and its directory where it is missing. The kernel gives the lock back when the process ends, however
/// it ends.
pub fn lock(path: &Path) -> Result<File, OpenError> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|reason| OpenError::Create { path: directory.into(), reason })?;
    }
    let name = lock_of(path);
    let failed = |reason| OpenError::Create { path: name.clone(), reason };
    let file = File::options().create(true).truncate(false).write(true).open(&name).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path: path.into() }),
        Err(TryLockError::Error(reason)) => Err(failed(reason)),
    }
}

/// The file that stands for the right to use another one.
fn lock_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

fn options() -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        // Each commit reaches the disk before it is acknowledged: it survives a kill and a power cut.
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(PATIENCE)
        .foreign_keys(true)
        .pragma("journal_size_limit", LOG_SIZE)
        .pragma("temp_store", "memory")
}

/// Connections are kept for ever: they cost little, and with the last one a database in memory would end.
fn pool(connections: u32) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .min_connections(1)
        .max_connections(connections)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .acquire_timeout(PATIENCE)
}

/// SQLite itself rolls back when a disk is full, of which the client's count of open transactions learns nothing: it would refuse the next
/// one for ever. A connection that comes back like that is closed, and the file opened anew.
/// (Not for memory: there the data would go with the connection, and no disk is full.)
fn only_between_transactions(pool: SqlitePoolOptions) -> SqlitePoolOptions {
    pool.after_release(|connection, _| {
        Box::pin(async move {
            // The answer comes behind the rollback of a transaction that was dropped.
            connection.ping().await?;
            Ok(!connection.is_in_transaction())
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    async fn write_then_read(database: &Database) -> i64 {
        sqlx::query("CREATE TABLE IF NOT EXISTS t (n INTEGER)").execute(&database.writer).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (1)").execute(&database.writer).await.unwrap();
        sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&database.readers).await.unwrap()
    }

    #[tokio::test]
    async fn what_the_writer_commits_the_readers_see() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::File(directory.path().join("new/state.db"));
        assert_eq!(write_then_read(&Database::open(&place).await.unwrap()).await, 1);
        assert_eq!(write_then_read(&Database::open(&Place::Memory).await.unwrap()).await, 1);
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&Place::File(directory.path().join("state.db"))).await.unwrap();
        write_then_read(&database).await;
        assert!(sqlx::query("INSERT INTO t VALUES (2)").execute(&database.readers).await.is_err());
    }

    #[tokio::test]
    async fn a_file_in_use_is_refused_until_it_is_let_go_and_then_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let place = Place::File(directory.path().join("state.db"));
        let database = Database::open(&place).await.unwrap();
        write_then_read(&database).await;
        let refused = Database::open(&place).await.unwrap_err();
        assert!(refused.to_string().contains("another process uses"), "{refused}");
        database.close().await;
        drop(database);
        assert_eq!(write_then_read(&Database::open(&place).await.unwrap()).await, 2);
    }

    #[tokio::test]
    async fn a_file_that_was_deleted_or_replaced_is_gone_and_one_that_comes_back_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (path, aside) = (directory.path().join("state.db"), directory.path().join("aside"));
        let database = Database::open(&Place::File(path.clone())).await.unwrap();
        let file = database.file.as_ref().unwrap();
        for own in [path.clone(), lock_of(&path)] {
            assert_eq!(file.missing(), None);
            std::fs::rename(&own, &aside).unwrap();
            assert_eq!(file.missing(), Some(own.clone()));
            std::fs::write(&own, "another one").unwrap();
            assert_eq!(file.missing(), Some(own.clone()));
            std::fs::rename(&aside, &own).unwrap();
        }
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert!(database.gone().unwrap().contains("state.db was deleted"));
        assert_eq!(Database::open(&Place::Memory).await.unwrap().gone(), None);
    }

    #[tokio::test]
    async fn an_ack_is_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&Place::File(directory.path().join("state.db"))).await.unwrap();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&database.writer).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&database.writer).await.unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
    }

    #[tokio::test]
    async fn a_write_that_finds_the_disk_full_does_not_spoil_the_next_one() {
        let directory = tempfile::tempdir().unwrap();
        let database = Database::open(&Place::File(directory.path().join("state.db"))).await.unwrap();
        write_then_read(&database).await;
        let write = async |bytes: i64| -> Result<(), sqlx::Error> {
            let mut transaction = database.writer.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("INSERT INTO t VALUES (zeroblob(?))").bind(bytes).execute(&mut *transaction).await?;
            transaction.commit().await
        };
        sqlx::raw_sql("PRAGMA max_page_count = 4").execute(&database.writer).await.unwrap();
        let full = write(1_000_000).await.unwrap_err();
        assert!(full.to_string().contains("full"), "{full}");
        for _ in 0..2 {
            write(10).await.unwrap();
        }
    }
}
