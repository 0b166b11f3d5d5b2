//! The allocator of the server.
//!
//! The state of a large fleet is a few tables of hundreds of megabytes, touched all over. In pages of 4 KiB nearly
//! each touch also misses the processor's table of pages; jemalloc asks the system for huge pages, and keeps small
//! pieces apart from the large ones, so that freed ones leave few holes.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// Read by jemalloc before `main`; `_RJEM_MALLOC_CONF` in the environment goes before it. Freed memory goes back to
/// the system within a tenth of a second: the copy of a checkpoint is a tenth of the state. Not at once: what each
/// second's work frees and takes again would be a page fault each time. By a thread of jemalloc's own: a thread that
/// wrote a checkpoint and then sleeps gives nothing back itself.
// A name that another library also had would be a conflict; this one is jemalloc's own.
#[allow(unsafe_code)]
#[unsafe(export_name = "_rjem_malloc_conf")]
pub static CONFIGURATION: &[u8; 70] =
    b"thp:always,background_thread:true,dirty_decay_ms:100,muzzy_decay_ms:0\0";
