//! Test fixture: a browser, a demo, and the checks after every test.

use std::ops::AsyncFnOnce;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use crate::browser::{Browser, Scripts};
use crate::demo::{Data, Demo, target};
use crate::pages::Pages;

/// Limits the number of browsers, which start many processes.
static ROOM: Semaphore = Semaphore::const_new(2);

/// Runs a test with a signed-in browser.
pub(crate) async fn signed_in(test: impl AsyncFnOnce(&Pages) + 'static) {
    visitor(Scripts::On, async |pages: &Pages| {
        pages.sign_in().await;
        test(pages).await;
    })
    .await;
}

/// Runs a test with a browser that is not signed in.
pub(crate) async fn visitor(scripts: Scripts, test: impl AsyncFnOnce(&Pages) + 'static) {
    visit(Data::Few, scripts, test).await;
}

/// Runs a test with a signed-in browser and the demo's sample data.
pub(crate) async fn with_sample(test: impl AsyncFnOnce(&Pages) + 'static) {
    visit(Data::Sample, Scripts::On, async |pages: &Pages| {
        pages.sign_in().await;
        test(pages).await;
    })
    .await;
}

async fn visit(data: Data, scripts: Scripts, test: impl AsyncFnOnce(&Pages) + 'static) {
    let _room = ROOM.acquire().await.unwrap();
    let test_name = std::thread::current()
        .name()
        .unwrap_or_default()
        .replace("::", "-");
    let screenshot = pictures().join(format!("failed-{test_name}.png"));
    let _ = std::fs::remove_file(&screenshot);
    let folder = Folder::new();
    let demo = Demo::start(&folder.0, data).await;
    let browser = Browser::start(&folder.0, scripts).await;
    let pages = Rc::new(Pages::new(browser, Rc::new(demo)));
    let test_pages = pages.clone();
    // In its own task, so that a panic is resumed after the cleanup.
    let tasks = LocalSet::new();
    let task = tasks.spawn_local(async move { test(&test_pages).await });
    let outcome = tasks.run_until(task).await;
    let Pages { browser, demo } = Rc::into_inner(pages).expect("the test has ended");
    let demo = Rc::into_inner(demo).expect("the test has ended");
    if let Err(failed) = outcome {
        browser.tell_what_is_seen(&screenshot).await;
        demo.tell();
        std::panic::resume_unwind(failed.into_panic());
    }
    end(browser).await;
    demo.stop();
}

/// Runs a test with a browser but no demo. Console messages are not checked.
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

/// Runs a part of a test with a second browser.
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
    assert_eq!(complaints, [""; 0], "console messages");
}

/// A temporary directory, removed when dropped.
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

/// The directory for screenshots.
pub(crate) fn pictures() -> PathBuf {
    let folder = target().join("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
