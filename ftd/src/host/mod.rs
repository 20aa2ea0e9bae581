//! Back ends: what the machine's effects act on and where its inputs come from, on this host.
//!
//! Everything here is on the non-deterministic side of the boundary. What these modules deliver
//! becomes a log entry before the machine sees it, and what the machine emits passes the output
//! rule before it gets here.
//!
//! * [`announce`]: frames that tell the network where the guest's MAC address is now.
//! * [`clock`]: host monotonic time and the guest's virtual clock made from it.
//! * [`console`]: where console bytes go to and come from.
//! * [`disk`]: disk images and the threads that carry out disk requests.
//! * [`entropy`]: random bytes from the host's kernel.
//! * [`heap`]: the heap of this process.
//! * [`local_socket`]: Unix sockets with a path.
//! * [`priority`]: scheduling priority of threads that work beside the guest.
//! * [`service`]: what a service manager is told.
//! * [`tap`]: the guest's cable: a TAP device, on a bridge or not.

pub(crate) mod aligned;
pub mod announce;
pub mod clock;
pub mod console;
pub mod disk;
pub mod entropy;
pub mod heap;
pub mod local_socket;
pub mod priority;
pub mod service;
pub mod tap;
