//! Bytes in saved state, as text of hexadecimal digits.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are saved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (pairs, odd) = text.as_bytes().as_chunks::<2>();
        let digit = |digit: u8| char::from(digit).to_digit(16).map(|value| value as u8);
        let byte = |&[high, low]: &[u8; 2]| Some(digit(high)? << 4 | digit(low)?);
        let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
        bytes
            .filter(|_| odd.is_empty())
            .map(Self)
            .ok_or_else(|| serde::de::Error::custom("expected pairs of hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_pairs_of_digits() {
        let bytes = HexBytes(vec![0, 0xab, 0x7f]);
        let json = serde_json::to_string(&bytes).unwrap();
        assert_eq!(json, r#""00ab7f""#);
        assert_eq!(serde_json::from_str::<HexBytes>(&json).unwrap(), bytes);
        for bad in [r#""0""#, r#""0g""#, r#""é""#, "5"] {
            assert!(serde_json::from_str::<HexBytes>(bad).is_err(), "{bad}");
        }
    }
}
