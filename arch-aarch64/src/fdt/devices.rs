//! Interrupt controller, timer, PMU, firmware interface, clock, serial port, real-time clock and power button.

use vm_fdt::{Error, FdtWriter};

use super::{Machine, Phandle, compatible, reg};
use crate::irq::{GPIO_SPI, PMU_PPI, Ppi, RTC_SPI, Spi, TIMER_PPIS, UART_SPI};
use crate::layout::{GIC_DISTRIBUTOR, GIC_ITS, GPIO, Layout, RTC, UART};

/// Interrupt specifiers of bindings/interrupt-controller/arm,gic-v3.yaml.
const KIND_SPI: u32 = 0;
const KIND_PPI: u32 = 1;
const LEVEL_HIGH: u32 = 4;
/// `KEY_POWER` of the kernel's input event codes.
const KEY_POWER: u32 = 116;
/// The GPIO line to which the power button is wired.
pub(crate) const POWER_BUTTON_LINE: u32 = 3;

pub(super) fn uart_path() -> String {
    format!("/pl011@{:x}", UART.base().0)
}

pub(super) fn write(fdt: &mut FdtWriter, machine: &Machine) -> Result<(), Error> {
    gic(fdt, machine.layout)?;
    timer(fdt)?;
    if machine.pmu {
        pmu(fdt)?;
    }
    psci(fdt)?;
    clock(fdt)?;
    if machine.serial {
        uart(fdt)?;
    }
    rtc(fdt)?;
    power_button(fdt)
}

fn gic(fdt: &mut FdtWriter, layout: &Layout) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", GIC_DISTRIBUTOR.base().0))?;
    fdt.property_string("compatible", "arm,gic-v3")?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_null("ranges")?;
    reg(fdt, &[GIC_DISTRIBUTOR, layout.redistributors()])?;
    fdt.property_phandle(Phandle::GIC)?;

    let its = fdt.begin_node(&format!("msi-controller@{:x}", GIC_ITS.base().0))?;
    fdt.property_string("compatible", "arm,gic-v3-its")?;
    fdt.property_null("msi-controller")?;
    fdt.property_u32("#msi-cells", 1)?;
    reg(fdt, &[GIC_ITS])?;
    fdt.property_phandle(Phandle::ITS)?;
    fdt.end_node(its)?;

    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    fdt.property_null("always-on")?;
    let cells: Vec<u32> = TIMER_PPIS.iter().flat_map(|ppi| private(*ppi)).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.end_node(node)
}

fn pmu(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("pmu")?;
    fdt.property_string("compatible", "arm,armv8-pmuv3")?;
    fdt.property_array_u32("interrupts", &private(PMU_PPI))?;
    fdt.end_node(node)
}

fn psci(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    compatible(fdt, &["arm,psci-1.0", "arm,psci-0.2"])?;
    fdt.property_string("method", "hvc")?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", 24_000_000)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(Phandle::CLOCK)?;
    fdt.end_node(node)
}

fn uart(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl011@{:x}", UART.base().0))?;
    compatible(fdt, &["arm,pl011", "arm,primecell"])?;
    reg(fdt, &[UART])?;
    fdt.property_array_u32("interrupts", &shared(UART_SPI))?;
    fdt.property_array_u32("clocks", &[Phandle::CLOCK, Phandle::CLOCK])?;
    fdt.property_string_list("clock-names", vec!["uartclk".into(), "apb_pclk".into()])?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl031@{:x}", RTC.base().0))?;
    compatible(fdt, &["arm,pl031", "arm,primecell"])?;
    reg(fdt, &[RTC])?;
    fdt.property_array_u32("interrupts", &shared(RTC_SPI))?;
    fdt.property_u32("clocks", Phandle::CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

fn power_button(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("pl061@{:x}", GPIO.base().0))?;
    compatible(fdt, &["arm,pl061", "arm,primecell"])?;
    reg(fdt, &[GPIO])?;
    fdt.property_array_u32("interrupts", &shared(GPIO_SPI))?;
    fdt.property_null("gpio-controller")?;
    fdt.property_u32("#gpio-cells", 2)?;
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 2)?;
    fdt.property_u32("clocks", Phandle::CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.property_phandle(Phandle::GPIO)?;
    fdt.end_node(node)?;

    let keys = fdt.begin_node("gpio-keys")?;
    fdt.property_string("compatible", "gpio-keys")?;
    let key = fdt.begin_node("power-button")?;
    fdt.property_string("label", "Power Button")?;
    fdt.property_u32("linux,code", KEY_POWER)?;
    fdt.property_array_u32("gpios", &[Phandle::GPIO, POWER_BUTTON_LINE, 0])?;
    fdt.end_node(key)?;
    fdt.end_node(keys)
}

fn shared(spi: Spi) -> [u32; 3] {
    [KIND_SPI, spi.0, LEVEL_HIGH]
}

fn private(ppi: Ppi) -> [u32; 3] {
    [KIND_PPI, ppi.0, LEVEL_HIGH]
}
