//! Crates that parse images for ftd may panic: ftd turns that into an error (`guarded`). libFuzzer would end
//! the process in the panic hook, before anybody can; so in targets with such crates only panics of ftd's own
//! reach it, and others when nobody has caught them.

use std::panic;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};

static ONCE: Once = Once::new();
static OWN: AtomicUsize = AtomicUsize::new(0);

/// Does `work`, in which panics of other crates may be caught; ftd's own may not.
///
/// # Panics
/// ftd's own code has panicked.
pub fn may_panic<T>(work: impl FnOnce() -> T) -> T {
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let file = info.location().map_or("", |location| location.file());
            // Those of the workspace are named relative to its root, those of others are not.
            if !file.starts_with('/') {
                OWN.fetch_add(1, Ordering::SeqCst);
                before(info);
            }
        }));
    });
    let before = OWN.load(Ordering::SeqCst);
    let done = work();
    assert_eq!(
        before,
        OWN.load(Ordering::SeqCst),
        "a panic of ftd's own was caught"
    );
    done
}
