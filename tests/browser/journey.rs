//! A test's frame: a browser, a demo, and what has to be true at the end of every test.

use std::ops::AsyncFnOnce;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::browser::{Browser, Scripts};
use crate::demo::{Demo, target};
use crate::pages::Pages;

/// A browser is many processes: a few of them at the same time are enough.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Lets somebody who has signed in do something, and sees to it that everything ends.
pub(crate) async fn signed_in(test: impl AsyncFnOnce(&Pages) + 'static) {
    visitor(Scripts::On, async |pages: &Pages| {
        pages.sign_in().await;
        test(pages).await;
    })
    .await;
}

/// The same for somebody who has only opened the browser.
pub(crate) async fn visitor(scripts: Scripts, test: impl AsyncFnOnce(&Pages) + 'static) {
    let _room = ROOM.acquire().await.unwrap();
    let test_name = std::thread::current()
        .name()
        .unwrap_or_default()
        .replace("::", "-");
    let picture = pictures().join(format!("failed-{test_name}.png"));
    let _ = std::fs::remove_file(&picture);
    let folder = Folder::new();
    let demo = Demo::start(&folder.0);
    let browser = Browser::start(&folder.0, scripts).await;
    let pages = Rc::new(Pages::new(browser, Rc::new(demo)));
    let visited = pages.clone();
    // A task of its own, so that what it panics with can wait until everything has ended.
    let tasks = LocalSet::new();
    let task = tasks.spawn_local(async move { test(&visited).await });
    let outcome = tasks.run_until(task).await;
    let Pages { browser, demo } = Rc::into_inner(pages).expect("the test has ended");
    let demo = Rc::into_inner(demo).expect("the test has ended");
    if let Err(failed) = outcome {
        browser.tell_what_is_seen(&picture).await;
        demo.tell();
        std::panic::resume_unwind(failed.into_panic());
    }
    end(browser).await;
    demo.stop();
}

/// A browser without the demo; what its pages complain of is the test's to judge.
pub(crate) async fn with_browser(test: impl AsyncFnOnce(&Browser) + 'static) {
    let _room = ROOM.acquire().await.unwrap();
    let folder = Folder::new();
    let browser = Rc::new(Browser::start(&folder.0, Scripts::On).await);
    let used = browser.clone();
    let tasks = LocalSet::new();
    let task = tasks.spawn_local(async move { test(&used).await });
    let outcome = tasks.run_until(task).await;
    drop(tasks);
    Rc::into_inner(browser)
        .expect("the test has ended")
        .close()
        .await;
    if let Err(failed) = outcome {
        std::panic::resume_unwind(failed.into_panic());
    }
}

/// Lets somebody else do something, who has just opened a browser elsewhere.
pub(crate) async fn elsewhere(pages: &Pages, test: impl AsyncFnOnce(&Pages)) {
    let folder = Folder::new();
    let browser = Browser::start(&folder.0, Scripts::On).await;
    let other = Pages::new(browser, pages.demo.clone());
    test(&other).await;
    end(other.browser).await;
}

async fn end(browser: Browser) {
    let complaints = browser.complaints().await;
    browser.close().await;
    assert_eq!(complaints, [""; 0], "the browser complains");
}

/// A folder that is removed with this.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("keytally-browser-{}-{n}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Where pictures are kept.
pub(crate) fn pictures() -> PathBuf {
    let folder = target().join("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
