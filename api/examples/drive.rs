//! Drives a VM through a life: `cargo run -p granule-api --example drive -- SOCKET KERNEL [TAP-FD…]`.
//!
//! Start a monitor first (`granule --api-socket SOCKET`). Numbers of opened taps, if any, go along as descriptors with `vm.add-net`.

use std::error::Error;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use granule_api::client::{Client, ClientError};
use granule_api::config::{NetConfig, PayloadConfig, VmConfig};
use granule_api::json;

/// Creates a VM with an interface for the taps, boots it, looks at it and ends it again; answers what `vm.info` said.
pub async fn drive(socket: &Path, kernel: &Path, taps: Vec<OwnedFd>) -> Result<String, ClientError> {
    let mut client = Client::connect(socket).await?;
    let pong = client.ping().await?;
    println!("{} {}", pong.build_version.unwrap_or_default(), pong.features.join(" "));

    // Everything that is left out has the default that the API's document names.
    let payload = PayloadConfig { kernel: Some(kernel.to_owned()), ..PayloadConfig::default() };
    client.create(&VmConfig { payload, ..VmConfig::default() }).await?;
    if !taps.is_empty() {
        let net = NetConfig { num_queues: 2 * taps.len(), ..least() };
        client.add_net(&net, taps).await?;
    }
    // A refusal is an error that lists its causes; nothing has changed then.
    client.put("vm.boot").await?;
    let info = client.info().await?;
    client.put("vm.shutdown").await?;
    client.put("vm.delete").await?;
    Ok(format!("{:?}, {} MiB", info.state, info.memory_actual_size >> 20))
}

/// An interface with nothing said of it.
fn least() -> NetConfig {
    json::parse(b"{}").unwrap_or_else(|error| unreachable!("all its fields have defaults: {error}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(socket), Some(kernel)) = (arguments.next(), arguments.next()) else {
        return Err("usage: drive SOCKET KERNEL [TAP-FD...]".into());
    };
    let taps = arguments.map(|number| copy(&number)).collect::<Result<Vec<_>, _>>()?;
    println!("{}", drive(Path::new(&socket), Path::new(&kernel), taps).await?);
    Ok(())
}

/// A copy of a descriptor that we were started with.
fn copy(number: &str) -> Result<OwnedFd, Box<dyn Error>> {
    let number: RawFd = number.parse()?;
    if number < 0 {
        return Err("a descriptor's number is not negative".into());
    }
    // SAFETY: not -1; it is borrowed for the call, which fails if there is no such descriptor.
    Ok(unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?)
}
