//! `cpus`: how many, of which shape, with which features.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::defaults::{self, phys_bits, yes};
use super::list;

/// `cpus` of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpusConfig {
    /// vCPUs that the guest boots with.
    pub boot_vcpus: u32,
    /// vCPUs that the VM may ever have.
    pub max_vcpus: u32,
    /// How the vCPUs are laid out in packages, dies, cores and threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topology: Option<CpuTopology>,
    /// x86 only; accepted and echoed.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub kvm_hyperv: bool,
    /// The most bits of guest physical address; clamped to what the host has.
    #[serde(default = "phys_bits::value", deserialize_with = "phys_bits::deserialize")]
    pub max_phys_bits: u8,
    /// Nested virtualization; x86 only, accepted and echoed.
    #[serde(default = "yes::value", deserialize_with = "yes::deserialize")]
    pub nested: bool,
    /// Which host CPUs each vCPU may run on.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "list::bounded")]
    pub affinity: Vec<CpuAffinity>,
    /// CPU features that are asked for.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub features: CpuFeatures,
    /// Which vCPU threads may share a physical core.
    #[serde(default, deserialize_with = "defaults::or_default")]
    pub core_scheduling: CoreScheduling,
}

impl Default for CpusConfig {
    fn default() -> Self {
        Self {
            boot_vcpus: 1,
            max_vcpus: 1,
            topology: None,
            kvm_hyperv: false,
            max_phys_bits: phys_bits::value(),
            nested: yes::value(),
            affinity: Vec::new(),
            features: CpuFeatures::default(),
            core_scheduling: CoreScheduling::default(),
        }
    }
}

/// The host CPUs of one vCPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuAffinity {
    /// Index of the vCPU.
    pub vcpu: u32,
    /// Host CPU numbers.
    #[serde(deserialize_with = "list::bounded")]
    pub host_cpus: Vec<usize>,
}

/// The layout of the vCPUs; the product of the four is `max_vcpus`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuTopology {
    /// Threads of a core.
    pub threads_per_core: u16,
    /// Cores of a die.
    pub cores_per_die: u16,
    /// Dies of a package.
    pub dies_per_package: u16,
    /// Packages of the VM.
    pub packages: u16,
}

/// CPU features that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct CpuFeatures {
    /// x86 only; accepted and echoed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amx: Option<bool>,
    /// Memory tagging. Absent: what `--mte` said when the process was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mte: Option<MteRequest>,
}

/// Which vCPU threads may share a physical core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "CoreSchedulingMode"))]
pub enum CoreScheduling {
    /// Threads of this VM only.
    #[default]
    Vm,
    /// Nobody: each vCPU has its core for itself.
    Vcpu,
    /// Anyone.
    Off,
}

/// What a client asks of memory tagging: `true`, `false` or `"auto"` on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MteRequest {
    /// The guest has tags, or the VM is refused.
    On,
    /// The guest has no tags.
    Off,
    /// The guest has tags where the host can give them; where not, `vm.info` says why.
    #[default]
    Auto,
}

impl fmt::Display for MteRequest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Self::On => "on",
            Self::Off => "off",
            Self::Auto => "auto",
        })
    }
}

impl Serialize for MteRequest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::On => to.serialize_bool(true),
            Self::Off => to.serialize_bool(false),
            Self::Auto => to.serialize_str("auto"),
        }
    }
}

#[cfg(test)]
impl schemars::JsonSchema for MteRequest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MteRequest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "What is asked of memory tagging: true, false or \"auto\".",
            "anyOf": [{ "type": "boolean" }, { "type": "string", "enum": ["auto"] }],
        })
    }
}

impl<'de> Deserialize<'de> for MteRequest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TrueFalseOrAuto;

        impl Visitor<'_> for TrueFalseOrAuto {
            type Value = MteRequest;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("true, false or \"auto\"")
            }

            fn visit_bool<E: Error>(self, on: bool) -> Result<MteRequest, E> {
                Ok(if on { MteRequest::On } else { MteRequest::Off })
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<MteRequest, E> {
                match word {
                    "auto" => Ok(MteRequest::Auto),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(word), &self)),
                }
            }
        }

        from.deserialize_any(TrueFalseOrAuto)
    }
}
