//! The binary, as an administrator runs it: built once, then started with a store in a temporary directory.

use serde_json::Value;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The binary's path; built in the profile of the tests.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let out = Command::new(cargo)
            .args(["build", "--quiet", "-p", "mailstrata-cli", "--message-format", "json"])
            .current_dir(&root)
            .stderr(Stdio::inherit())
            .output()
            .expect("cargo runs");
        assert!(out.status.success(), "the binary builds");
        let text = String::from_utf8(out.stdout).expect("cargo writes UTF-8");
        let built = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let path = built.filter_map(|v| v["executable"].as_str().map(PathBuf::from)).next_back();
        path.expect("cargo names the binary")
    })
}

/// A store in a temporary directory, and the binary to use on it.
pub struct Program {
    pub dir: tempfile::TempDir,
    pub store: PathBuf,
}

impl Default for Program {
    fn default() -> Self {
        Self::new()
    }
}

impl Program {
    /// No store yet.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = dir.path().join("store");
        Self { dir, store }
    }

    /// A store with small files, so that they roll over.
    pub fn small() -> Self {
        let p = Self::new();
        p.ok(["init", "--segment-size", "64K", "--pack-size", "64K"]);
        p
    }

    /// The command, not started yet.
    pub fn command<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut c = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("MAILSTRATA_")) {
            c.env_remove(name);
        }
        c.args(args).env("MAILSTRATA_STORE", &self.store).env("TZ", "UTC").current_dir(self.dir.path());
        c
    }

    /// Runs to the end.
    pub fn run<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("the binary runs")
    }

    /// Runs with an input.
    pub fn feed<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I, input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut stdin = child.stdin.take().expect("piped");
        let input = input.to_vec();
        // A program that ends early closes the pipe: what it says counts, not this.
        let feeder = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let out = child.wait_with_output().expect("the binary ends");
        feeder.join().expect("the feeder ends");
        out
    }

    /// Runs, asserts success, gives stdout.
    pub fn ok<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, args: I) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{:?}: {}", out.status, String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("UTF-8")
    }

    /// Runs, asserts the exit code, gives stderr.
    pub fn fails<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(&self, code: i32, args: I) -> String {
        let out = self.run(args);
        let stderr = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(code), "{stderr}");
        stderr
    }

    /// Appends lines; stdout as JSON, and the exit code.
    pub fn append(&self, lines: &str) -> (Vec<Value>, i32) {
        let out = self.feed(["append"], lines.as_bytes());
        (json_lines(&out.stdout), out.status.code().expect("not killed"))
    }

    /// The whole history as JSON.
    pub fn export(&self) -> Vec<Value> {
        json_lines(self.ok(["export"]).as_bytes())
    }
}

/// Lines of JSON.
pub fn json_lines(bytes: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

/// An export without what an import may not keep.
pub fn without_lsns(lines: &[Value]) -> Vec<Value> {
    let mut lines = lines.to_vec();
    for l in lines.iter_mut().filter_map(Value::as_object_mut) {
        l.remove("lsn");
        l.remove("recorded");
    }
    lines
}
