//! Tests of the whole log, most of them on a disk in memory that fails on command.

mod basics;
mod damage;
mod disk;
mod full;
mod model;
mod power;
mod rows;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::Storage;
use crate::{Clock, Error, Log, Settings};
use disk::Disk;

const PARTITIONS: u16 = 3;

fn settings() -> Settings {
    Settings {
        partitions: PARTITIONS,
        cache_bytes: 2 << 20,
        ..Settings::default()
    }
}

fn fixed(time: i64) -> Clock {
    Arc::new(move || time)
}

/// Opens the log on a disk in memory.
fn try_open(disk: &Disk) -> Result<Log, Error> {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    Log::open_on(&storage, Path::new("data"), &settings(), fixed(7))
}

fn open(disk: &Disk) -> Log {
    try_open(disk).unwrap()
}

/// A record that says which one it is, of any size above 8.
fn record(number: u64, size: usize) -> Bytes {
    let mut record = number.to_le_bytes().to_vec();
    record.resize(size.max(8), number as u8 | 1);
    record.into()
}
