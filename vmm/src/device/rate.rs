//! Rate limits on the command line.

use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use granule_devices::rate::BucketSettings;

/// A bucket of tokens as three numbers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bucket(pub BucketSettings);

impl FromStr for Bucket {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "not three numbers with commas between";
        let numbers = text.split(',').map(str::parse).collect::<Result<Vec<u64>, _>>();
        let [size, one_time_burst, milliseconds] = numbers.map_err(|_| WANTED)?[..] else {
            return Err(WANTED);
        };
        let refill_time = NonZeroU64::new(milliseconds).ok_or("a refill takes some time")?;
        let refill_time = Duration::from_millis(refill_time.get());
        Ok(Self(BucketSettings { size, one_time_burst, refill_time }))
    }
}
