//! The follower on real directories, with both kernel interfaces.

use super::*;
use crate::maildir::test_tree::TestTree;
use crate::url::Url;
use std::fs;

const SHORT: Duration = Duration::from_millis(40);

fn url(text: &str) -> MaildirUrl {
    match text.parse() {
        Ok(Url::Maildir(url)) => url,
        other => panic!("{text}: {other:?}"),
    }
}

/// Runs a test with each kernel interface that may be used here.
fn each_backend(name: &str, test: impl Fn(&TestTree, &dyn Fn(&str) -> Follower)) {
    let run = |choice| {
        let tree = TestTree::new(name);
        let path = tree.path.clone();
        test(&tree, &|below: &str| {
            let url = url(&format!("maildir:{}/{below}", path.display()));
            Follower::start(&url, choice, &mut |_| {}).unwrap()
        });
    };
    run(Choice::Inotify);
    let probe = TestTree::new("probe");
    match FanotifyKernel::new(&probe.path) {
        Ok(_) => run(Choice::Fanotify),
        Err(error) => eprintln!("fanotify is not tested here: {error}"),
    }
}

/// All changes until it is quiet, told shortly.
fn told(follower: &mut Follower) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let batch = follower.next(SHORT).unwrap();
        if batch.is_empty() {
            return all;
        }
        all.extend(batch.iter().map(tell));
    }
}

fn spot(dir: &Path, in_new: bool, name: &[u8]) -> String {
    let dir = dir.file_name().unwrap().to_string_lossy();
    format!("{dir}/{}/{}", if in_new { "new" } else { "cur" }, String::from_utf8_lossy(name))
}

fn tell(change: &Change) -> String {
    match change {
        Change::Message { folder_dir, in_new, name, kind, .. } => {
            let here = spot(folder_dir, *in_new, name);
            match kind {
                MessageChange::Appeared => format!("+ {here}"),
                MessageChange::Vanished => format!("- {here}"),
                MessageChange::Renamed { from } => {
                    format!("{} > {here}", spot(&from.folder_dir, from.in_new, &from.name))
                }
            }
        }
        Change::FolderChanged { account } => format!("folders {}", String::from_utf8_lossy(&account.address)),
        Change::AccountsChanged => "accounts".into(),
        Change::Doubt { account, .. } => {
            format!("doubt {}", account.as_ref().map_or("all".into(), |a| String::from_utf8_lossy(&a.address)))
        }
    }
}

#[test]
fn a_messages_life_is_followed() {
    each_backend("life", |tree, start| {
        let root = tree.maildir("m");
        let archive = tree.maildir("m/.Archive");
        tree.deliver(&root, "0.before");
        let mut follower = start("m");
        assert_eq!(told(&mut follower), [""; 0]);
        tree.deliver(&root, "1.a");
        assert_eq!(told(&mut follower), ["+ m/new/1.a"]);
        fs::rename(root.join("new/1.a"), root.join("cur/1.a:2,")).unwrap();
        fs::rename(root.join("cur/1.a:2,"), root.join("cur/1.a:2,S")).unwrap();
        assert_eq!(told(&mut follower), ["m/new/1.a > m/cur/1.a:2,", "m/cur/1.a:2, > m/cur/1.a:2,S"]);
        fs::rename(root.join("cur/1.a:2,S"), archive.join("cur/1.a:2,S")).unwrap();
        assert_eq!(told(&mut follower), ["m/cur/1.a:2,S > .Archive/cur/1.a:2,S"]);
        fs::rename(archive.join("cur/1.a:2,S"), tree.path.join("away")).unwrap();
        assert_eq!(told(&mut follower), ["- .Archive/cur/1.a:2,S"]);
        fs::hard_link(tree.path.join("away"), root.join("cur/2.b:2,")).unwrap();
        fs::remove_file(root.join("cur/2.b:2,")).unwrap();
        let link = told(&mut follower);
        // fanotify may have merged the two.
        assert!(link.contains(&"+ m/cur/2.b:2,".into()) && link.contains(&"- m/cur/2.b:2,".into()), "{link:?}");
        fs::write(root.join("cur/3.c:2,"), "written in place").unwrap();
        assert_eq!(told(&mut follower), ["+ m/cur/3.c:2,"]);
        let raw = std::ffi::OsStr::from_bytes(b"4.\xff\xfe:2,");
        fs::rename(root.join("cur/3.c:2,"), root.join("cur").join(raw)).unwrap();
        let batch = follower.next(Duration::from_secs(2)).unwrap();
        assert!(matches!(&batch[0], Change::Message { name, .. } if name == raw.as_bytes()), "{batch:?}");
        fs::write(root.join("cur/.hidden"), "").unwrap();
        fs::write(root.join("dovecot.index.log"), "").unwrap();
        fs::create_dir(root.join("cur/dir")).unwrap();
        assert_eq!(told(&mut follower), [""; 0]);
    });
}

#[test]
fn folders_come_change_their_name_and_go() {
    each_backend("folders", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        // With a message in it before it can be watched.
        tree.maildir("staging");
        tree.deliver(&tree.path.join("staging"), "1.a");
        fs::rename(tree.path.join("staging"), root.join(".New")).unwrap();
        assert_eq!(told(&mut follower), ["folders m", "+ .New/new/1.a"]);
        tree.deliver(&root.join(".New"), "2.b");
        assert_eq!(told(&mut follower), ["+ .New/new/2.b"]);
        fs::rename(root.join(".New"), root.join(".Other")).unwrap();
        tree.deliver(&root.join(".Other"), "3.c");
        let renamed = told(&mut follower);
        assert_eq!(renamed, ["folders m", "+ .Other/new/3.c"]);
        // A new folder under the old name is another folder.
        tree.maildir("m/.New");
        told(&mut follower);
        tree.deliver(&root.join(".New"), "4.d");
        tree.deliver(&root.join(".Other"), "5.e");
        assert_eq!(told(&mut follower), ["+ .New/new/4.d", "+ .Other/new/5.e"]);
        fs::remove_dir_all(root.join(".New")).unwrap();
        let gone = told(&mut follower);
        assert!(gone.contains(&"folders m".into()) && gone.contains(&"- .New/new/4.d".into()), "{gone:?}");
        fs::rename(root.join(".Other"), tree.path.join("moved-out")).unwrap();
        assert_eq!(told(&mut follower), ["folders m"]);
        let moved_out = tree.path.join("moved-out");
        tree.deliver(&moved_out, "6.f");
        assert_eq!(told(&mut follower), [""; 0]);
        let watched = follower.watches();
        fs::rename(&moved_out, root.join(".Back")).unwrap();
        assert_eq!(told(&mut follower).len(), 6, "five messages and the folder");
        assert_eq!(follower.watches(), watched + 3);
        fs::remove_dir_all(root.join(".Back")).unwrap();
        told(&mut follower);
        assert_eq!(follower.watches(), watched);
    });
}

#[test]
fn slowly_made_folders_are_followed_from_their_first_message() {
    each_backend("slow", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        fs::create_dir(root.join(".Slow")).unwrap();
        told(&mut follower);
        fs::create_dir(root.join(".Slow/tmp")).unwrap();
        fs::create_dir(root.join(".Slow/cur")).unwrap();
        fs::write(root.join(".Slow/cur/0.z:2,"), "").unwrap();
        let first = told(&mut follower);
        assert!(first.contains(&"+ .Slow/cur/0.z:2,".into()), "{first:?}");
        fs::create_dir(root.join(".Slow/new")).unwrap();
        tree.deliver(&root.join(".Slow"), "1.a");
        let second = told(&mut follower);
        assert!(second.contains(&"+ .Slow/new/1.a".into()), "{second:?}");
    });
}

#[test]
fn keywords_and_subscriptions_are_folder_changes() {
    each_backend("keywords", |tree, start| {
        let root = tree.maildir("m");
        let sub = tree.maildir("m/.Sub");
        let mut follower = start("m");
        for dir in [&root, &sub] {
            fs::write(dir.join("dovecot-keywords.lock"), "0 work\n").unwrap();
            fs::rename(dir.join("dovecot-keywords.lock"), dir.join("dovecot-keywords")).unwrap();
            assert_eq!(told(&mut follower), ["folders m"]);
        }
        fs::write(root.join("subscriptions"), "Sub\n").unwrap();
        assert_eq!(told(&mut follower), ["folders m"]);
        fs::write(sub.join("dovecot-uidlist"), "x").unwrap();
        fs::write(sub.join("subscriptions"), "x").unwrap();
        assert_eq!(told(&mut follower), [""; 0]);
    });
}

#[test]
fn users_of_a_template_come_and_go() {
    each_backend("users", |tree, start| {
        let alice = tree.maildir("a.org/alice/Maildir");
        let mut follower = start("{domain}/{user}/Maildir");
        tree.maildir("b.org/bob/Maildir");
        let came = told(&mut follower);
        assert_eq!(came.iter().filter(|c| *c == "accounts").count(), 1, "{came:?}");
        tree.deliver(&tree.path.join("b.org/bob/Maildir"), "1.b");
        tree.deliver(&alice, "1.a");
        assert_eq!(told(&mut follower), ["+ Maildir/new/1.b", "+ Maildir/new/1.a"]);
        // A user whose Maildir comes long after the directory.
        fs::create_dir(tree.path.join("a.org/carol")).unwrap();
        assert_eq!(told(&mut follower), [""; 0]);
        fs::create_dir(tree.path.join("a.org/carol/Maildir")).unwrap();
        told(&mut follower);
        let carol = tree.maildir("a.org/carol/Maildir");
        assert!(told(&mut follower).contains(&"accounts".into()));
        tree.deliver(&carol, "1.c");
        assert_eq!(told(&mut follower), ["+ Maildir/new/1.c"]);
        fs::remove_dir_all(tree.path.join("a.org/alice")).unwrap();
        assert!(told(&mut follower).contains(&"accounts".into()));
        // The whole domain renamed: other addresses.
        fs::rename(tree.path.join("a.org"), tree.path.join("c.org")).unwrap();
        assert!(told(&mut follower).contains(&"accounts".into()));
        tree.deliver(&tree.path.join("c.org/carol/Maildir"), "2.c");
        let batch = follower.next(Duration::from_secs(2)).unwrap();
        let Change::Message { account, .. } = &batch[0] else { panic!("{batch:?}") };
        assert_eq!(account.address, b"carol@c.org");
    });
}

#[test]
fn a_maildir_that_was_replaced_is_in_doubt_and_followed_on() {
    each_backend("replaced", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        tree.maildir("restored");
        tree.deliver(&tree.path.join("restored"), "1.a");
        fs::rename(&root, tree.path.join("old")).unwrap();
        fs::rename(tree.path.join("restored"), &root).unwrap();
        let changes = told(&mut follower);
        assert!(changes.contains(&"doubt m".into()) || changes.contains(&"accounts".into()), "{changes:?}");
        tree.deliver(&tree.path.join("old"), "2.b");
        assert_eq!(told(&mut follower), [""; 0]);
        tree.deliver(&root, "3.c");
        assert_eq!(told(&mut follower), ["+ m/new/3.c"]);
        fs::remove_dir_all(&root).unwrap();
        assert!(told(&mut follower).contains(&"accounts".into()));
        let root = tree.maildir("m");
        assert!(told(&mut follower).contains(&"accounts".into()));
        tree.deliver(&root, "4.d");
        assert_eq!(told(&mut follower), ["+ m/new/4.d"]);
    });
}

#[test]
fn lost_events_are_a_doubt_about_everything_and_mend_the_watches() {
    each_backend("overflow", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        tree.maildir("m/.Unseen");
        // The events about it are the ones that were lost.
        let mut lost = Vec::new();
        while follower.kernel.read(&mut lost).unwrap() {}
        let mut batch = Batch::new();
        let name = Vec::new();
        let raw = Raw { watch: WatchId(0), what: What::Overflow, is_dir: false, cookie: 0, name };
        batch.take(raw, &mut follower.places);
        let told_now: Vec<String> = follower.settle(batch).iter().map(tell).collect();
        assert_eq!(told_now, ["doubt all", "accounts"]);
        tree.deliver(&root.join(".Unseen"), "1.a");
        assert_eq!(told(&mut follower), ["+ .Unseen/new/1.a"]);
    });
}

#[test]
fn a_full_kernel_queue_is_a_doubt_and_following_goes_on() {
    each_backend("queue", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        let limit = |of: &str| {
            let text = fs::read_to_string(format!("/proc/sys/fs/{of}/max_queued_events")).unwrap_or_default();
            text.trim().parse::<usize>().unwrap_or(16_384)
        };
        let queue = limit("inotify").max(limit("fanotify"));
        if queue > 50_000 {
            return eprintln!("not tested here: the queue holds {queue} events");
        }
        tree.deliver(&root, "0");
        for i in 0..queue + 10 {
            fs::rename(root.join(format!("new/{i}")), root.join(format!("new/{}", i + 1))).unwrap();
        }
        let mut doubts = 0;
        loop {
            let batch = follower.next(SHORT).unwrap();
            assert!(batch.len() <= 2 * EVENTS_MAX, "{}", batch.len());
            doubts += batch.iter().filter(|c| matches!(c, Change::Doubt { account: None, .. })).count();
            if batch.is_empty() {
                break;
            }
        }
        assert_eq!(doubts, 1);
        tree.deliver(&root, "after");
        assert_eq!(told(&mut follower), ["+ m/new/after"]);
    });
}

/// Refuses watches as the kernel does at the limit.
struct Limited {
    kernel: InotifyKernel,
    limit: Arc<std::sync::atomic::AtomicUsize>,
}

impl Kernel for Limited {
    fn name(&self) -> &'static str {
        "limited"
    }
    fn add(&mut self, dir: &Path, role: kernel::Role) -> io::Result<WatchId> {
        let left = self.limit.load(std::sync::atomic::Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.limit.store(left - 1, std::sync::atomic::Ordering::Relaxed);
        self.kernel.add(dir, role)
    }
    fn remove(&mut self, watch: WatchId) {
        self.kernel.remove(watch);
    }
    fn read(&mut self, events: &mut Vec<Raw>) -> io::Result<bool> {
        self.kernel.read(events)
    }
    fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.kernel.fd()
    }
}

#[test]
fn too_few_watches_are_a_doubt_that_names_the_limit_until_there_are_enough() {
    let tree = TestTree::new("limit");
    let root = tree.maildir("m");
    tree.maildir("m/.Sub");
    let url = url(&format!("maildir:{}/m", tree.path.display()));
    let mut follower = Follower::start(&url, Choice::Inotify, &mut |_| {}).unwrap();
    let limit = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    follower.kernel = Box::new(Limited { kernel: InotifyKernel::new().unwrap(), limit: limit.clone() });
    follower.places = Places::new(Tree::new(&url));
    limit.store(3, std::sync::atomic::Ordering::Relaxed);
    let accounts = follower.places.sync_accounts(&mut *follower.kernel, &mut |_| {}).unwrap();
    assert!(accounts.doubts.is_empty());
    let doubts = follower.places.sync_folders(&mut *follower.kernel, false, 0).doubts;
    let [Change::Doubt { account: Some(_), why }] = doubts.as_slice() else { panic!("{doubts:?}") };
    assert!(why.contains("fs.inotify.max_user_watches"), "{why}");
    // Once the limit is raised the account is watched again, and that is said.
    limit.store(100, std::sync::atomic::Ordering::Relaxed);
    follower.retry_at = Instant::now();
    assert_eq!(told(&mut follower), ["doubt m"]);
    tree.deliver(&root.join(".Sub"), "1.a");
    assert_eq!(told(&mut follower), ["+ .Sub/new/1.a"]);
}

#[test]
fn a_tree_that_goes_is_a_doubt_and_when_it_is_back_it_is_followed_again() {
    let tree = TestTree::new("blind");
    tree.maildir("mail/alice");
    let url = url(&format!("maildir:{}/mail/{{user}}", tree.path.display()));
    let mut follower = Follower::start(&url, Choice::Inotify, &mut |_| {}).unwrap();
    fs::rename(tree.path.join("mail"), tree.path.join("unmounted")).unwrap();
    assert!(told(&mut follower).contains(&"doubt all".into()));
    fs::rename(tree.path.join("unmounted"), tree.path.join("mail")).unwrap();
    follower.retry_at = Instant::now();
    assert!(told(&mut follower).contains(&"doubt all".into()));
    tree.deliver(&tree.path.join("mail/alice"), "1.a");
    assert_eq!(told(&mut follower), ["+ alice/new/1.a"]);
}

#[test]
fn links_among_folders_are_not_watched() {
    each_backend("links", |tree, start| {
        let root = tree.maildir("m");
        let other = tree.maildir("other");
        std::os::unix::fs::symlink(&other, root.join(".Link")).unwrap();
        std::os::unix::fs::symlink(&root, root.join(".Loop")).unwrap();
        let mut follower = start("m");
        tree.deliver(&other, "1.a");
        assert_eq!(told(&mut follower), [""; 0]);
        tree.deliver(&root, "2.b");
        assert_eq!(told(&mut follower), ["+ m/new/2.b"]);
    });
}

#[test]
fn a_stopped_follower_returns_at_once() {
    let tree = TestTree::new("stop");
    tree.maildir("m");
    let url = url(&format!("maildir:{}/m", tree.path.display()));
    let mut follower = Follower::start(&url, Choice::Auto, &mut |_| {}).unwrap();
    assert_eq!(follower.backend(), "inotify");
    let stopper = follower.stopper();
    let start = Instant::now();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        stopper.stop();
        stopper
    });
    assert!(follower.next(Duration::from_secs(60)).unwrap().is_empty() && follower.stopped());
    assert!(follower.next(Duration::from_secs(60)).unwrap().is_empty());
    assert!(start.elapsed() < Duration::from_secs(30));
    let stopper = thread.join().unwrap();
    drop(follower);
    stopper.stop();
}

#[test]
fn what_cannot_be_followed_is_an_error() {
    let tree = TestTree::new("error");
    let url = url(&format!("maildir:{}/none/m", tree.path.display()));
    for choice in [Choice::Auto, Choice::Inotify, Choice::Fanotify] {
        assert!(Follower::start(&url, choice, &mut |_| {}).is_err(), "{choice:?}");
    }
}

#[test]
fn ten_thousand_deliveries_all_come_and_nothing_is_lost_or_doubted() {
    each_backend("many", |tree, start| {
        let root = tree.maildir("m");
        let mut follower = start("m");
        let writer = {
            let root = root.clone();
            std::thread::spawn(move || {
                let seed = root.join("tmp/seed");
                fs::write(&seed, "").unwrap();
                for i in 0..10_000 {
                    let tmp = root.join("tmp/x");
                    fs::hard_link(&seed, &tmp).unwrap();
                    fs::rename(tmp, root.join(format!("new/{i}"))).unwrap();
                }
            })
        };
        let mut names = std::collections::HashSet::new();
        let start = Instant::now();
        while names.len() < 10_000 && start.elapsed() < Duration::from_secs(60) {
            for change in follower.next(Duration::from_millis(500)).unwrap() {
                match change {
                    Change::Message { name, kind: MessageChange::Appeared, .. } => drop(names.insert(name)),
                    other => panic!("{other:?}"),
                }
            }
        }
        writer.join().unwrap();
        eprintln!("{}: {} deliveries followed in {:?}", follower.backend(), names.len(), start.elapsed());
        assert_eq!(names.len(), 10_000);
    });
}

/// What a consumer knows: it goes where the hints point and looks.
fn look(root: &Path, changes: &[Change], known: &mut BTreeSet<PathBuf>) {
    let mut see = |dir: &Path, in_new: bool, name: &[u8]| {
        let path = dir.join(if in_new { "new" } else { "cur" }).join(OsStr::from_bytes(name));
        if path.exists() {
            known.insert(path)
        } else {
            known.remove(&path)
        };
    };
    let mut relist = false;
    for change in changes {
        match change {
            Change::Message { folder_dir, in_new, name, kind, .. } => {
                see(folder_dir, *in_new, name);
                if let MessageChange::Renamed { from } = kind {
                    see(&from.folder_dir, from.in_new, &from.name);
                }
            }
            Change::FolderChanged { .. } => relist = true,
            other => panic!("{other:?}"),
        }
    }
    if relist {
        known.clone_from(&on_disk(root));
    }
}

fn on_disk(root: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let folders = fs::read_dir(root).unwrap().flatten().map(|e| e.path());
    for dir in folders.filter(|dir| dir.file_name().unwrap().as_bytes().starts_with(b".")).chain([root.to_owned()]) {
        for part in ["new", "cur"] {
            all.extend(fs::read_dir(dir.join(part)).into_iter().flatten().flatten().map(|e| e.path()));
        }
    }
    all
}

#[test]
fn who_looks_where_the_hints_point_ends_up_knowing_everything() {
    for seed in 1..=4 {
        each_backend("converge", |tree, start| converges(seed, tree, start));
    }
}

fn converges(seed: u64, tree: &TestTree, start: &dyn Fn(&str) -> Follower) {
    let root = tree.maildir("m");
    let mut follower = start("m");
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let writer = {
        let (root, done) = (root.clone(), done.clone());
        std::thread::spawn(move || {
            let mut seed = seed;
            let mut random = move |n: u64| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 33) % n
            };
            for i in 0..1500 {
                let folder = |n: u64| if n == 0 { root.clone() } else { root.join(format!(".F{n}")) };
                let (a, b) = (folder(random(5)), folder(random(5)));
                let some = |dir: &Path, part: &str, n: u64| {
                    fs::read_dir(dir.join(part)).ok()?.flatten().map(|e| e.path()).nth(n as usize)
                };
                // Most may fail, because there is nothing there; that is part of it.
                match random(12) {
                    0 if a != root => {
                        for part in ["tmp", "new", "cur"] {
                            let _ = fs::create_dir_all(a.join(part));
                        }
                    }
                    1 if a != root && b != root => drop(fs::rename(&a, &b)),
                    2 if a != root && random(3) == 0 => drop(fs::remove_dir_all(&a)),
                    3..=5 => {
                        let tmp = a.join(format!("tmp/{i}"));
                        let _ = fs::write(&tmp, "x").and_then(|()| fs::rename(&tmp, a.join(format!("new/{i}"))));
                    }
                    6..=7 => {
                        if let Some(from) = some(&a, "new", random(3)) {
                            let name = format!("{}:2,", from.file_name().unwrap().display());
                            let _ = fs::rename(&from, a.join("cur").join(name));
                        }
                    }
                    8..=9 => {
                        if let Some(from) = some(&a, "cur", random(3)) {
                            let _ = fs::rename(&from, b.join("cur").join(from.file_name().unwrap()));
                        }
                    }
                    10 => drop(some(&a, "cur", random(3)).map(fs::remove_file)),
                    _ => drop(fs::write(a.join(format!("cur/{i}:2,")), "in place")),
                }
            }
            done.store(true, std::sync::atomic::Ordering::Release);
        })
    };
    let mut known = BTreeSet::new();
    loop {
        let last = done.load(std::sync::atomic::Ordering::Acquire);
        let batch = follower.next(SHORT).unwrap();
        look(&root, &batch, &mut known);
        if last && batch.is_empty() {
            break;
        }
    }
    writer.join().unwrap();
    let real = on_disk(&root);
    let missed: Vec<_> = real.symmetric_difference(&known).collect();
    assert!(missed.is_empty(), "{}, seed {seed}: {missed:?}", follower.backend());
}
