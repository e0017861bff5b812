//! Random mailbox operations with scans between them: at the end, and for every moment at which a scan had ended, the view shows
//! the mailbox as it was, byte for byte.

mod scan_tree;

use mailstrata_format::Lsn;
use scan_tree::{Mailbox, World, assert_same, rename, stored};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const FOLDERS: [&str; 5] = ["INBOX", "A", "A/B", "Work", "Sent"];

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

struct Run {
    w: World,
    rng: Rng,
    users: Vec<String>,
    /// Names of the folders that there are, by user.
    folders: HashMap<String, Vec<String>>,
    made: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let users = vec!["u1".to_owned(), "u2".to_owned()];
        let mut run = Self { w: World::new(), rng: Rng(seed), users, folders: HashMap::new(), made: 0 };
        for u in run.users.clone() {
            for f in FOLDERS {
                run.w.folder(&u, f);
            }
            run.folders.insert(u, FOLDERS.map(str::to_owned).to_vec());
        }
        run
    }

    fn files(&self, user: &str) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for folder in &self.folders[user] {
            for part in ["new", "cur"] {
                for entry in fs::read_dir(self.w.folder_dir(user, folder).join(part)).unwrap() {
                    all.push(entry.unwrap().path());
                }
            }
        }
        all.sort();
        all
    }

    fn step(&mut self) {
        self.made += 1;
        let n = self.made;
        let user = self.users[self.rng.below(self.users.len())].clone();
        let mine = self.folders[&user].clone();
        let folder = mine[self.rng.below(mine.len())].clone();
        let dir = self.w.folder_dir(&user, &folder);
        let files = self.files(&user);
        let file = (!files.is_empty()).then(|| files[self.rng.below(files.len())].clone());
        let there = |base: &str| {
            files
                .iter()
                .any(|f| f.starts_with(&dir) && base_of(f) == base && f.parent().unwrap().parent() == Some(&dir))
        };
        match (self.rng.below(16), file) {
            (0..=4, _) => {
                // Few texts, so that many messages have the same content.
                let text = format!("text {}", self.rng.below(12)).repeat(1 + self.rng.below(40));
                let body = if self.rng.below(3) == 0 {
                    format!("From: x\n\n{text}")
                } else {
                    scan_tree::message(&format!("{n}"), &text)
                };
                fs::write(dir.join("new").join(format!("{n}.m")), body).unwrap();
            }
            (5..=7, Some(f)) => {
                let letters = ["", "S", "FS", "RS", "Sa", "ab"][self.rng.below(6)];
                let to = f.parent().unwrap().parent().unwrap().join("cur").join(format!("{}:2,{letters}", base_of(&f)));
                rename(&f, &to);
            }
            (8..=9, Some(f)) if !there(&base_of(&f)) => {
                rename(&f, &dir.join("cur").join(f.file_name().unwrap()));
            }
            (10, Some(f)) => {
                // A move under a new name.
                rename(&f, &dir.join("cur").join(format!("{n}.moved:2,S")));
            }
            (11, Some(f)) => {
                let name = if there(&base_of(&f)) {
                    format!("{n}.copy:2,")
                } else {
                    f.file_name().unwrap().to_str().unwrap().to_owned()
                };
                fs::hard_link(&f, dir.join("cur").join(name)).unwrap();
            }
            (12..=13, Some(f)) => fs::remove_file(f).unwrap(),
            (14, _) if folder != "INBOX" => {
                let name = format!("R{n}");
                rename(&dir, &self.w.folder_dir(&user, &name));
                let list = self.folders.get_mut(&user).unwrap();
                list.retain(|f| *f != folder);
                list.push(name);
            }
            (15, _) => match self.rng.below(4) {
                0 if folder != "INBOX" && mine.len() > 3 => {
                    fs::remove_dir_all(&dir).unwrap();
                    self.folders.get_mut(&user).unwrap().retain(|f| *f != folder);
                }
                1 => {
                    let name = FOLDERS[self.rng.below(5)].to_owned();
                    if !mine.contains(&name) {
                        self.w.folder(&user, &name);
                        self.folders.get_mut(&user).unwrap().push(name);
                    }
                }
                2 => fs::write(dir.join("dovecot-keywords"), format!("0 k{}\n1 $Junk\n", self.rng.below(3))).unwrap(),
                _ => fs::write(dir.join("dovecot-uidlist"), format!("3 V{n} N9 Gaa{n}\n")).unwrap(),
            },
            _ => {}
        }
    }
}

fn base_of(path: &std::path::Path) -> String {
    path.file_name().unwrap().to_str().unwrap().split(":2,").next().unwrap().to_owned()
}

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

fn play(seed: u64, rounds: usize) {
    let mut run = Run::new(seed);
    let mut past: Vec<(i64, u64, HashMap<String, Mailbox>)> = Vec::new();
    for round in 0..rounds {
        for _ in 0..run.rng.below(25) {
            run.step();
        }
        if run.rng.below(6) == 0 {
            run.w.reopen();
        }
        let report = run.w.scan();
        assert_eq!(report.accounts.in_doubt, 0, "{report:?}");
        let disk: HashMap<String, Mailbox> = run.users.iter().map(|u| (u.clone(), run.w.disk(u))).collect();
        for u in &run.users {
            assert_same(&run.w.stored(u, None), &disk[u], &format!("seed {seed}, round {round}, {u}"));
        }
        past.push((now(), run.w.lsn(), disk));
        // A kernel clock tick, so that what comes is stamped later than this.
        std::thread::sleep(Duration::from_millis(12));
    }
    run.w.reopen();
    let view = run.w.store().view();
    for (round, (at, lsn, disk)) in past.iter().enumerate() {
        for u in &run.users {
            let what = format!("seed {seed}, {u}, looking back at round {round}");
            assert_same(&stored(&view, run.w.id(u), Some(*at)), &disk[u], &what);
            assert_same(&stored(&view.at_lsn(Lsn(*lsn)), run.w.id(u), None), &disk[u], &what);
        }
    }
}

#[test]
fn random_changes_between_scans_are_seen_as_they_were() {
    let seeds = match std::env::var("SEEDS") {
        Ok(many) => 1..=many.parse().unwrap(),
        Err(_) => 1..=4,
    };
    for seed in seeds {
        play(seed, 15);
    }
}
