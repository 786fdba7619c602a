//! A private PostgreSQL server on a free loopback port.
//!
//! [`Server::shared`] is one server a test process with a database a test; [`Server::start`] is a server of one's own, for
//! tests that hold transactions open, change settings or stop it. A server goes when its [`Server`] is dropped, and also
//! when the test process ends however it ends: a shell waits on a pipe from it.

#![allow(clippy::expect_used, clippy::panic)] // clippy does not see that this is a test

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use link_operator::{
    api::database::{Auth, PasswordAuth, PostgresqlDatabase, SecretRef, Tls, TlsMode},
    postgresql::{Connected, connect},
    secrets::Secrets,
};
use tempfile::TempDir;

/// Name of the superuser; its password is [`PASSWORD`].
pub const USER: &str = "postgres";
/// Password of every user that the harness makes.
pub const PASSWORD: &str = "correct horse";
/// The Secret below [`Database::secrets`] that holds them.
pub const SECRET: &str = "database";

/// A running server.
pub struct Server {
    pub port: u16,
    guard: Child,
    dir: TempDir,
    databases: AtomicU32,
}

/// A database of a server, and all that a source or target needs to reach it as the superuser.
pub struct Database {
    pub spec: PostgresqlDatabase,
    pub secrets: Secrets,
    dir: TempDir,
}

impl Server {
    /// The process's server. Tests must not disturb each other on it: no open transactions, no settings.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A server of one's own with more settings (`name=value`).
    pub fn start_with(settings: &[&str]) -> Self {
        Self::start_with_files(settings, &[])
    }

    /// A server of one's own with more settings, and its log in this empty folder.
    pub fn start_with_log_in(log: &Path, settings: &[&str]) -> Self {
        Self::start_from(settings, &[], Some(log))
    }

    /// A server of one's own with files (name, content) beside its data folder, for settings to name as `../name`.
    pub fn start_with_files(settings: &[&str], files: &[(&str, &str)]) -> Self {
        Self::start_from(settings, files, None)
    }

    fn start_from(settings: &[&str], files: &[(&str, &str)], log: Option<&Path>) -> Self {
        let dir = TempDir::new().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            // The server refuses a private key that others can read.
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        let data = dir.path().join("data");
        let password = dir.path().join("password");
        std::fs::write(&password, PASSWORD).unwrap();
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(dir.path()).args(log));
        }
        run(server_user(&bin("initdb"))
            .args(log.map(|log| format!("--waldir={}", log.display())))
            .args(["-N", "-U", USER, "-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--pwfile"])
            .arg(&password)
            .arg("-D")
            .arg(&data));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let guard = Self::spawn(&data, port, settings);
        let server = Self { port, guard, dir, databases: AtomicU32::new(0) };
        server.wait();
        server
    }

    fn spawn(data: &Path, port: u16, settings: &[&str]) -> Child {
        // The shell ends the server, fast, when the pipe from this process closes, and removes its files unless told not to.
        let script = r#"dir=$1; shift; "$@" & pid=$!; read -r word; kill -INT $pid; wait $pid; [ "$word" = keep ] || rm -rf "$dir""#;
        let mut server = server_user(&bin("postgres"));
        server.arg("-D").arg(data).args(["-p", &port.to_string(), "-k", "", "-h", "127.0.0.1"]);
        let fixed = [
            "wal_level=logical",
            "fsync=off",
            "max_wal_senders=60",
            "max_replication_slots=100", // tests leave theirs
            "max_prepared_transactions=10",
            "max_connections=100",
            "shared_buffers=32MB",
            "timezone=Asia/Tokyo", // whoever does not set his own must be found out
        ];
        for setting in fixed.iter().chain(settings) {
            server.args(["-c", setting]);
        }
        let log = std::fs::File::create(data.parent().unwrap().join("log")).unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh"]).arg(data.parent().unwrap()).arg(server.get_program()).args(server.get_args());
        shell.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn wait(&self) {
        let until = Instant::now() + Duration::from_mins(1);
        let port = self.port.to_string();
        while !Command::new(bin("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status().unwrap().success() {
            assert!(Instant::now() < until, "PostgreSQL did not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A standby of this server, which follows it as it goes on.
    pub fn standby(&self) -> Self {
        let dir = TempDir::new().unwrap();
        let data = dir.path().join("data");
        if is_root() {
            run(Command::new("chown").args(["-R", "postgres:"]).arg(dir.path()));
        }
        let mut backup = server_user(&bin("pg_basebackup"));
        backup.env("PGPASSWORD", PASSWORD).args(["-h", "127.0.0.1", "-U", USER, "-c", "fast", "-X", "stream", "-R"]);
        run(backup.args(["-p", &self.port.to_string(), "-D"]).arg(&data));
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let guard = Self::spawn(&data, port, &[]);
        let standby = Self { port, guard, dir, databases: AtomicU32::new(0) };
        standby.wait();
        standby
    }

    /// Stops the server and starts it again on the same port and data.
    pub fn restart(&mut self) {
        self.pause();
        self.resume();
    }

    /// Stops the server; its data stay.
    pub fn pause(&mut self) {
        self.guard.stdin.as_mut().unwrap().write_all(b"keep\n").unwrap();
        self.stop();
    }

    /// Starts a server that was paused.
    pub fn resume(&mut self) {
        self.guard = Self::spawn(&self.dir.path().join("data"), self.port, &[]);
        self.wait();
    }

    fn stop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }

    /// What the server logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// A new, empty database.
    pub async fn create_database(&self) -> Database {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let postgres = self.database("postgres");
        // Two CREATE DATABASE at once may meet in the template.
        postgres.connect().await.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE template0")).await.unwrap();
        self.database(&name)
    }

    /// How to reach a database by its name.
    pub fn database(&self, name: &str) -> Database {
        let dir = TempDir::new().unwrap();
        let secret = dir.path().join(SECRET);
        std::fs::create_dir(&secret).unwrap();
        std::fs::write(secret.join("username"), USER).unwrap();
        std::fs::write(secret.join("password"), PASSWORD).unwrap();
        let spec = PostgresqlDatabase {
            host: "127.0.0.1".to_owned(),
            port: self.port,
            database: name.to_owned(),
            tls: Tls { mode: TlsMode::Disable, ca: None, server_name: None },
            auth: Auth {
                password: Some(PasswordAuth {
                    secret_ref: SecretRef { name: SECRET.to_owned() },
                    username_key: "username".to_owned(),
                    password_key: "password".to_owned(),
                }),
            },
        };
        Database { spec, secrets: Secrets::new(dir.path()), dir }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Database {
    /// A session as the user of the Secret, under the fixed session settings; names without a schema are of `public`.
    pub async fn connect(&self) -> Connected {
        let session = connect(&self.spec, &self.secrets, "test").await.unwrap();
        session.batch_execute("SET search_path TO public").await.unwrap();
        session
    }

    /// Runs statements in a session of their own.
    pub async fn execute(&self, sql: &str) {
        self.connect().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// The folder of Secrets; [`SECRET`] in it has `username` and `password`.
    pub fn secrets_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces a key of [`SECRET`].
    pub fn set_secret(&self, key: &str, value: &str) {
        std::fs::write(self.dir.path().join(SECRET).join(key), value).unwrap();
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|self_| self_.uid() == 0)
}

/// A command that runs as the server's user: PostgreSQL refuses to run as root.
fn server_user(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// A program of the newest PostgreSQL that Debian's packages installed.
fn bin(program: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed: apt-get install postgresql");
    let newest = versions.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok()).max().unwrap();
    PathBuf::from(format!("/usr/lib/postgresql/{newest}/bin/{program}"))
}
