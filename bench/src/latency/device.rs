//! The device: opening it, its name, and the window through which it is watched.

use std::sync::Arc;

use anyhow::Result;
use candle_core::Device;

use super::result::DeviceInfo;
use super::telemetry::Probe;
use crate::env::Machine;
use crate::failure::{bad_input, unavailable};
#[cfg(any(feature = "cuda", test))]
use crate::nvml::{self, Nvml};

/// A device that has been opened.
pub(crate) struct Opened {
    /// For tensors.
    pub(crate) device: Device,
    /// For the result.
    pub(crate) info: DeviceInfo,
    /// For sampling, or why it cannot be sampled.
    pub(crate) probe: Result<Arc<dyn Probe>, String>,
    /// Folder of its results.
    pub(crate) label: String,
}

/// Opens `cpu`, `cuda`, `cuda:N` or `auto`.
///
/// # Errors
/// Exit code 2 for another name, 69 when this build or machine has no such device.
pub(crate) fn open(name: &str, machine: &Machine, note: &mut dyn FnMut(&str)) -> Result<Opened> {
    match name {
        "cpu" => Ok(cpu(machine)),
        "auto" => cuda(0).or_else(|error| {
            note(&format!("measuring on the CPU: {error}"));
            Ok(cpu(machine))
        }),
        "cuda" => cuda(0),
        _ => match name
            .strip_prefix("cuda:")
            .and_then(|ordinal| ordinal.parse().ok())
        {
            Some(ordinal) => cuda(ordinal),
            None => Err(bad_input(format!(
                "--device `{name}` is not one of cpu, cuda, cuda:N, auto"
            ))),
        },
    }
}

fn cpu(machine: &Machine) -> Opened {
    let reason = "computing on the CPU, whose power and clocks are not read";
    Opened {
        device: Device::Cpu,
        info: DeviceInfo {
            kind: "cpu".into(),
            name: machine.cpu_model.clone(),
            memory_bytes: Some(machine.memory_bytes),
            absent: Some(reason.into()),
            ..empty()
        },
        probe: Err(reason.into()),
        label: machine.label(),
    }
}

fn empty() -> DeviceInfo {
    DeviceInfo {
        kind: String::new(),
        name: String::new(),
        driver: None,
        cuda: None,
        memory_bytes: None,
        power_limit_w: None,
        max_sm_mhz: None,
        max_memory_mhz: None,
        ecc: None,
        mig: None,
        other_processes: None,
        absent: None,
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: usize) -> Result<Opened> {
    Err(unavailable(
        "this program was built without CUDA; use `leoma-node bench --device cuda`, which runs leoma-bench-cuda \
         beside it, or --device cpu",
    ))
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> Result<Opened> {
    use candle_core::cuda_backend::cudarc::driver::sys::CUdevice_attribute as Attribute;
    // The driver bindings panic instead of returning an error when a library is missing.
    let opened = std::panic::catch_unwind(|| Device::new_cuda(ordinal)).map_err(|_| {
        unavailable(format!(
            "cuda:{ordinal}: the CUDA libraries could not be loaded"
        ))
    })?;
    let device =
        opened.map_err(|error| unavailable(format!("cuda:{ordinal} cannot be used: {error}")))?;
    let stream = device.as_cuda_device()?.cuda_stream();
    let context = stream.context();
    let place = |attribute| context.attribute(attribute).unwrap_or(0);
    let bus = format!(
        "{:08x}:{:02x}:{:02x}.0",
        place(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID),
        place(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID),
        place(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)
    );
    let name = context.name().unwrap_or_else(|_| format!("cuda:{ordinal}"));
    Ok(watched(device, name, &nvml::NAMES, &nvml::Select::Pci(bus)))
}

/// A CUDA device with what the management library tells of it.
#[cfg(any(feature = "cuda", test))]
fn watched(device: Device, name: String, libraries: &[&str], select: &nvml::Select) -> Opened {
    let found = Nvml::open(libraries).and_then(|nvml| nvml.device(select));
    let label = crate::env::slug(&name);
    let (info, probe) = match found {
        Ok(found) => {
            let info = DeviceInfo {
                kind: "cuda".into(),
                name: found.name().unwrap_or(name),
                driver: found.nvml().driver(),
                cuda: found.nvml().cuda(),
                memory_bytes: found.memory().map(|(total, _)| total),
                power_limit_w: found.power_limit_w(),
                max_sm_mhz: found.max_sm_mhz(),
                max_memory_mhz: found.max_memory_mhz(),
                ecc: found.ecc(),
                mig: found.mig(),
                other_processes: found.other_processes(),
                absent: None,
            };
            (info, Ok(Arc::new(found) as Arc<dyn Probe>))
        }
        Err(reason) => {
            let info = DeviceInfo {
                kind: "cuda".into(),
                name,
                absent: Some(reason.clone()),
                ..empty()
            };
            (info, Err(reason))
        }
    };
    Opened {
        device,
        info,
        probe,
        label,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::failure::code;

    #[test]
    fn devices_are_opened_or_refused_with_their_code() {
        let machine = crate::env::tests::machine();
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let cpu = open("cpu", &machine, &mut note).unwrap();
        assert_eq!(
            (cpu.info.kind.as_str(), cpu.label.as_str()),
            ("cpu", "test-cpu-2t")
        );
        assert!(cpu.probe.is_err());
        assert_eq!(code(&open("gpu", &machine, &mut note).err().unwrap()), 2);
        assert_eq!(code(&open("cuda:x", &machine, &mut note).err().unwrap()), 2);
        if !cfg!(feature = "cuda") {
            let error = open("cuda", &machine, &mut note).err().unwrap();
            assert_eq!(code(&error), 69);
            assert!(error.to_string().contains("leoma-bench-cuda"));
            assert_eq!(open("auto", &machine, &mut note).unwrap().info.kind, "cpu");
            assert!(notes[0].contains("measuring on the CPU"));
        }
    }

    #[test]
    fn fields_are_absent_with_their_reason_when_the_device_cannot_be_watched() {
        let dir = tempfile::tempdir().unwrap();
        let library = nvml::tests::fake(dir.path(), 0);
        let library = library.to_str().unwrap();
        let select = nvml::Select::Index(0);
        let seen = watched(Device::Cpu, "GPU".into(), &[library], &select);
        assert_eq!(
            (seen.info.name.as_str(), seen.info.mig),
            ("Fake GPU 9000", Some(false))
        );
        assert_eq!((seen.info.ecc, seen.info.absent), (None, None));
        assert_eq!(seen.info.driver.as_deref(), Some("580.65.06"));
        assert_eq!(seen.info.other_processes, Some(1));
        assert!(seen.probe.is_ok());
        let blind = watched(Device::Cpu, "Some GPU".into(), &["/nowhere.so"], &select);
        assert_eq!(
            (blind.info.name.as_str(), blind.label.as_str()),
            ("Some GPU", "some-gpu")
        );
        assert!(blind.info.absent.unwrap().contains("NVML is not there"));
        assert!(blind.probe.is_err());
    }
}
