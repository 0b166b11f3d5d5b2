//! What an agent hears: acks and commands; and what it says of itself.
#![no_main]

use event::{Ack, Command, Status};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(ack) = Ack::decode(data) {
        assert!(ack.encode().len() <= data.len());
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
    }
    if let Ok(command) = Command::decode(data) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    let _ = Status::parse(data);
});
