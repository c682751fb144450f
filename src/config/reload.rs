//! Notices that a configured file changed; says when, never what.
//!
//! The kernel tells when something happens in a folder that leads to a file: the folder it stands
//! in, and every folder on the way that holds a symbolic link, so that Kubernetes' swap of
//! `..data` and a `current -> releases/7` are seen. What happened is then read off the files
//! themselves, once they have been quiet for a moment. They are also looked at without being
//! told, seldom, because some file systems tell nothing. Neighbour: `gateway::reload`.

use notify::event::{AccessKind, EventKind};
use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// How long files must be quiet before they are read.
const QUIET: Duration = Duration::from_millis(200);

/// Looks at files that do not become quiet; then they are read as they are.
const LOOKS_MAX: usize = 5;

/// Least time between two looks, for folders in which other files are written all the time.
const PACE: Duration = Duration::from_millis(50);

/// Time between looks when the kernel tells of changes, and when it does not.
const LOOK_WATCHED: Duration = Duration::from_secs(5);
const LOOK_UNWATCHED: Duration = Duration::from_secs(1);

/// Symbolic links followed on the way to one file, as many as Linux follows.
const LINKS_MAX: usize = 40;

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    place: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Print {
    /// `None` when there is no file, or it may not be looked at.
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            place: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Files a configuration was read from, each as it was just before it was read, so that a change
/// during the reading is seen afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files(BTreeMap<PathBuf, Option<Print>>);

impl Files {
    /// Notes `path`, which is about to be read. Only the first note of a path counts. Blocks.
    pub fn note(&mut self, path: &Path) {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let print = Print::of(&path);
        self.0.entry(path).or_insert(print);
    }

    /// The same files as they are now. Blocks.
    fn look(&self) -> Self {
        let now = |path: &PathBuf| (path.clone(), Print::of(path));
        Self(self.0.keys().map(now).collect())
    }
}

/// Waits for changes of [`Files`].
pub struct Watch {
    seen: Files,
    told: Arc<Notify>,
    kernel: Option<Kernel>,
}

impl Watch {
    /// Begins to watch. When the kernel cannot help, that is logged, and the files are looked at
    /// each second instead. Blocks for a moment.
    #[must_use]
    pub fn new(files: Files) -> Self {
        let told = Arc::new(Notify::new());
        let kernel = Kernel::new(told.clone());
        let mut watch = Self {
            seen: files,
            told,
            kernel: kernel.map_err(|error| unwatched(&error)).ok(),
        };
        watch.arm();
        watch
    }

    /// Watches `files` from now on.
    pub fn follow(&mut self, files: Files) {
        self.seen = files;
        self.arm();
    }

    /// Resolves when a file has changed and is quiet again. A call that is dropped loses nothing
    /// but the rest of its wait.
    pub async fn changed(&mut self) {
        loop {
            let every = match self.kernel {
                Some(_) => LOOK_WATCHED,
                None => LOOK_UNWATCHED,
            };
            let _ = timeout(every, self.told.notified()).await;
            sleep(PACE).await;
            let mut last = self.seen.clone();
            for _ in 0..LOOKS_MAX {
                let now = self.look().await;
                if now == last {
                    break;
                }
                last = now;
                sleep(QUIET).await;
            }
            if last != self.seen {
                self.follow(last);
                return;
            }
            self.arm();
        }
    }

    async fn look(&self) -> Files {
        let files = self.seen.clone();
        let looked = tokio::task::spawn_blocking(move || files.look()).await;
        looked.unwrap_or_else(|_| self.seen.clone())
    }

    fn arm(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if let Err(error) = kernel.watch(folders(&self.seen)) {
            unwatched(&error);
            self.kernel = None;
        }
    }
}

fn unwatched(error: &notify::Error) {
    tracing::warn!(
        name: "files_not_watched",
        %error,
        "changes of files are not reported by the kernel; they are looked at each second. \
         Raise fs.inotify.max_user_watches and max_user_instances"
    );
}

/// A folder and which one it was: one that was replaced has to be watched anew.
type Folders = BTreeMap<PathBuf, (u64, u64)>;

/// The kernel's watch on folders.
struct Kernel {
    watcher: RecommendedWatcher,
    folders: Folders,
}

impl Kernel {
    fn new(told: Arc<Notify>) -> notify::Result<Self> {
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let reading = EventKind::Access(AccessKind::Open(notify::event::AccessMode::Any));
            // An error may mean that events were lost, so it is a reason to look, too.
            if event.map_or(true, |event| event.kind != reading) {
                told.notify_one();
            }
        })?;
        Ok(Self {
            watcher,
            folders: Folders::new(),
        })
    }

    fn watch(&mut self, wanted: Folders) -> notify::Result<()> {
        if self.folders == wanted {
            return Ok(());
        }
        for (folder, place) in &self.folders {
            if wanted.get(folder) != Some(place) {
                // Its watch is gone with it when it was removed.
                let _ = self.watcher.unwatch(folder);
            }
        }
        for (folder, place) in &wanted {
            if self.folders.get(folder) != Some(place) {
                self.watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
        }
        self.folders = wanted;
        Ok(())
    }
}

/// The folders in which a change can change what `files` hold.
fn folders(files: &Files) -> Folders {
    let mut found = BTreeSet::new();
    for path in files.0.keys() {
        folders_to(path, &mut found);
    }
    found
        .into_iter()
        .filter_map(|folder| {
            let meta = fs::metadata(&folder).ok()?;
            Some((folder, (meta.dev(), meta.ino())))
        })
        .collect()
}

/// Walks an absolute path as the kernel does. Where it ends early, the last folder there is
/// watched: the missing part will appear in it.
fn folders_to(path: &Path, found: &mut BTreeSet<PathBuf>) {
    let mut here = PathBuf::from("/");
    let mut ahead: Vec<Step> = steps(path);
    let mut links = 0;
    while let Some(step) = ahead.pop() {
        let name = match step {
            Step::Up => {
                here.pop();
                continue;
            }
            Step::Down(name) => name,
        };
        let next = here.join(name);
        if let Ok(target) = fs::read_link(&next) {
            found.insert(here.clone());
            links += 1;
            if links > LINKS_MAX {
                return;
            }
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            ahead.extend(steps(&target));
        } else if ahead.is_empty() || !next.is_dir() {
            found.insert(here);
            return;
        } else {
            here = next;
        }
    }
}

enum Step {
    Up,
    Down(OsString),
}

/// The steps of a path, the first one last.
fn steps(path: &Path) -> Vec<Step> {
    let step = |component: Component<'_>| match component {
        Component::Normal(name) => Some(Step::Down(name.to_owned())),
        Component::ParentDir => Some(Step::Up),
        _ => None,
    };
    path.components().rev().filter_map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::{Files, Watch, folders};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::{Path, PathBuf};
    use std::time::Duration;
    use tokio::time::timeout;

    fn folder(name: &str) -> PathBuf {
        let name = format!("iothub-gateway-reload-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder.canonicalize().unwrap()
    }

    fn files(paths: &[&Path]) -> Files {
        let mut files = Files::default();
        for path in paths {
            files.note(path);
        }
        files
    }

    async fn seen(watch: &mut Watch) {
        let seen = timeout(Duration::from_secs(20), watch.changed()).await;
        seen.expect("the change is seen");
    }

    #[test]
    fn every_folder_with_a_link_on_the_way_is_watched() {
        let base = folder("links");
        fs::create_dir_all(base.join("mount/..1")).unwrap();
        fs::create_dir_all(base.join("etc")).unwrap();
        fs::write(base.join("mount/..1/rules.toml"), "x").unwrap();
        symlink("..1", base.join("mount/..data")).unwrap();
        symlink("..data/rules.toml", base.join("mount/rules.toml")).unwrap();
        let link = base.join("etc/rules.toml");
        symlink(base.join("mount/rules.toml"), &link).unwrap();
        let watched = folders(&files(&[&link]));
        for expected in ["etc", "mount", "mount/..1"] {
            assert!(watched.contains_key(&base.join(expected)), "{watched:?}");
        }
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_missing_folder_and_a_circle_of_links_end_the_walk() {
        let base = folder("circle");
        symlink("b", base.join("a")).unwrap();
        symlink("a", base.join("b")).unwrap();
        let (missing, circle) = (base.join("no/such/file"), base.join("a/file"));
        let watched = folders(&files(&[&missing, &circle]));
        assert_eq!(watched.keys().collect::<Vec<_>>(), [&base]);
        fs::remove_dir_all(base).unwrap();
    }

    #[tokio::test]
    async fn a_write_a_rename_and_a_file_that_appears_are_seen() {
        let base = folder("kinds");
        let (file, later) = (base.join("file"), base.join("deep/later"));
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(files(&[&file, &later]));
        fs::write(&file, "2").unwrap();
        seen(&mut watch).await;
        fs::write(base.join("new"), "3").unwrap();
        fs::rename(base.join("new"), &file).unwrap();
        seen(&mut watch).await;
        fs::create_dir(base.join("deep")).unwrap();
        fs::write(&later, "4").unwrap();
        seen(&mut watch).await;
        fs::remove_dir_all(base).unwrap();
    }

    #[tokio::test]
    async fn without_the_kernels_help_changes_are_seen_all_the_same() {
        let base = folder("poll");
        let file = base.join("file");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(files(&[&file]));
        watch.kernel = None;
        fs::write(&file, "22").unwrap();
        seen(&mut watch).await;
        fs::remove_dir_all(base).unwrap();
    }

    #[tokio::test]
    async fn what_happens_to_other_files_of_the_folder_is_no_change() {
        let base = folder("others");
        let file = base.join("file");
        fs::write(&file, "1").unwrap();
        let mut watch = Watch::new(files(&[&file]));
        fs::write(base.join("other"), "1").unwrap();
        fs::read(&file).unwrap();
        let quiet = timeout(Duration::from_millis(700), watch.changed()).await;
        assert!(quiet.is_err(), "nothing that matters changed");
        fs::remove_dir_all(base).unwrap();
    }

    #[tokio::test]
    async fn a_change_between_the_note_and_the_watch_is_seen() {
        let base = folder("early");
        let file = base.join("file");
        fs::write(&file, "1").unwrap();
        let noted = files(&[&file]);
        fs::write(&file, "22").unwrap();
        seen(&mut Watch::new(noted)).await;
        fs::remove_dir_all(base).unwrap();
    }
}
