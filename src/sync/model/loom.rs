//! Primitives for loom.

use std::convert::Infallible;
use std::env;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake};

use loom::sync::Notify;

use super::time::TIME;

pub(crate) use loom::sync::{Mutex, MutexGuard};
pub(crate) use loom::thread::spawn as thread;

/// The number of the current thread in the model.
pub(crate) fn thread_index() -> usize {
    // `ThreadId(Id { execution_id: .., id: .. })`; the id of the execution differs between schedules.
    let id = format!("{:?}", loom::thread::current().id());
    let numbers = id.split(|symbol: char| !symbol.is_ascii_digit());
    numbers
        .filter_map(|text| text.parse().ok())
        .next_back()
        .unwrap_or(0)
}

/// Explores every schedule of a model with at most `KEYTALLY_INTERRUPTIONS` preemptions, 2 by default.
pub(crate) fn check(model: impl Fn() + Send + Sync + 'static) {
    let bound = env::var("KEYTALLY_INTERRUPTIONS").map(|bound| {
        bound
            .parse()
            .expect("KEYTALLY_INTERRUPTIONS is not a number")
    });
    let mut checker = loom::model::Builder::new();
    checker.preemption_bound = Some(bound.unwrap_or(2));
    checker.max_branches = 10_000;
    TIME.with(|time| {
        let _entered = time.enter();
        checker.check(model);
    });
}

/// Runs a future to completion on this thread.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Signal(Notify);
    impl Wake for Signal {
        fn wake(self: Arc<Self>) {
            self.0.notify();
        }
    }
    // Cloning loom's own waker is a step, and tokio clones wakers while it holds a lock.
    let signal = Arc::new(Signal(Notify::new()));
    let waker = signal.clone().into();
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => signal.0.wait(),
        }
    }
}

/// Loom has no tasks: the future runs on the thread that awaits the handle.
pub(crate) struct JoinHandle<T>(Pin<Box<dyn Future<Output = T> + Send>>);

#[derive(Debug)]
pub(crate) struct AbortHandle;

pub(crate) fn spawn<F: Future + Send + 'static>(future: F) -> JoinHandle<F::Output> {
    JoinHandle(Box::pin(future))
}

impl<T> JoinHandle<T> {
    pub(crate) fn abort(&self) {}

    pub(crate) fn abort_handle(&self) -> AbortHandle {
        AbortHandle
    }
}

impl AbortHandle {
    pub(crate) fn abort(&self) {}
}

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context).map(Ok)
    }
}

/// Loom treats `SeqCst` accesses as little more than `AcqRel`, so each of them is surrounded by `SeqCst` fences.
pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{Ordering, fence};

    fn fenced<T>(order: Ordering, access: impl FnOnce() -> T) -> T {
        if order == Ordering::SeqCst {
            fence(order);
        }
        let result = access();
        if order == Ordering::SeqCst {
            fence(order);
        }
        result
    }

    macro_rules! atomics {
        ($($name:ident($value:ty) { $($method:ident),* })*) => {$(
            #[derive(Debug, Default)]
            pub(crate) struct $name(loom::sync::atomic::$name);

            #[allow(dead_code, reason = "not every method of every type is used")]
            impl $name {
                pub(crate) fn new(value: $value) -> Self {
                    Self(loom::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    fenced(order, || self.0.load(order))
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    fenced(order, || self.0.store(value, order));
                }

                $(
                    pub(crate) fn $method(&self, value: $value, order: Ordering) -> $value {
                        fenced(order, || self.0.$method(value, order))
                    }
                )*
            }
        )*};
    }

    atomics! {
        AtomicBool(bool) {}
        AtomicU8(u8) {}
        AtomicI64(i64) {}
        AtomicUsize(usize) {}
        AtomicU64(u64) { fetch_add, fetch_max, fetch_or, fetch_sub, swap }
    }

    impl AtomicU64 {
        pub(crate) fn fetch_update(
            &self,
            success: Ordering,
            failure: Ordering,
            update: impl FnMut(u64) -> Option<u64>,
        ) -> Result<u64, u64> {
            fenced(success, || self.0.fetch_update(success, failure, update))
        }
    }

    impl AtomicU8 {
        pub(crate) fn compare_exchange(
            &self,
            current: u8,
            new: u8,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u8, u8> {
            fenced(success, || {
                self.0.compare_exchange(current, new, success, failure)
            })
        }
    }
}
