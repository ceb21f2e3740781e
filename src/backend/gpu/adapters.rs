//! Which adapters this machine has.

use std::fmt;

/// What kind of device an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A card with memory of its own.
    Discrete,
    /// Part of a processor, whose memory it shares.
    Integrated,
    /// A card as a virtual machine shows it.
    Virtual,
    /// Software that does on the CPU what a GPU would do: 25 to 30 times slower than the CPU
    /// backend, so that it is only used where it is asked for by name or index.
    Software,
    /// The driver does not say.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Discrete => "discrete GPU",
            Kind::Integrated => "integrated GPU",
            Kind::Virtual => "virtual GPU",
            Kind::Software => "software",
            Kind::Other => "unknown kind",
        })
    }
}

/// What an adapter says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its place in [`adapters`].
    pub index: usize,
    /// The card's name.
    pub name: String,
    /// The driver and its version.
    pub driver: String,
    /// The API that it is used through, such as `vulkan`.
    pub api: String,
    /// Kind of device.
    pub kind: Kind,
    /// Most bytes of a buffer that a kernel can see at once.
    pub max_binding: u64,
}

impl AdapterInfo {
    /// Whether it computes on the CPU.
    #[must_use]
    pub fn is_software(&self) -> bool {
        self.kind == Kind::Software
    }

    /// Whether `part` occurs in its name, whatever the case of letters.
    #[must_use]
    pub fn matches_name(&self, part: &str) -> bool {
        !part.is_empty() && self.name.to_lowercase().contains(&part.to_lowercase())
    }
}

/// An adapter that can be opened.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// What it says of itself.
    pub info: AdapterInfo,
    pub(super) inner: wgpu::Adapter,
}

/// APIs in the order in which a card that several of them show is used.
const APIS: [wgpu::Backend; 3] = [wgpu::Backend::Vulkan, wgpu::Backend::Metal, wgpu::Backend::Dx12];

/// Every adapter of this machine, each card once. None where there is no driver.
#[must_use]
pub fn adapters() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: APIS.into_iter().map(wgpu::Backends::from).collect(),
        // Without validation layers: they print, and a debug build is no reason to want them.
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let mut all = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let rank = |a: &wgpu::Adapter| APIS.iter().position(|api| *api == a.get_info().backend);
    all.sort_by_key(|adapter| rank(adapter).unwrap_or(APIS.len()));
    let cards: Vec<Card> = all.iter().map(|adapter| Card::of(&adapter.get_info())).collect();
    let first_shown = |i: usize| !cards[i].is_shown_before(&cards[..i]);
    let kept = all.into_iter().enumerate().filter(|(i, _)| first_shown(*i));
    kept.enumerate().map(|(index, (_, inner))| described(index, inner)).collect()
}

fn described(index: usize, inner: wgpu::Adapter) -> Adapter {
    let info = inner.get_info();
    let kind = match info.device_type {
        wgpu::DeviceType::DiscreteGpu => Kind::Discrete,
        wgpu::DeviceType::IntegratedGpu => Kind::Integrated,
        wgpu::DeviceType::VirtualGpu => Kind::Virtual,
        wgpu::DeviceType::Cpu => Kind::Software,
        wgpu::DeviceType::Other => Kind::Other,
    };
    let info = AdapterInfo {
        index,
        name: info.name,
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        api: info.backend.to_string(),
        kind,
        max_binding: inner.limits().max_storage_buffer_binding_size,
    };
    Adapter { info, inner }
}

/// What tells one card from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Card {
    api: wgpu::Backend,
    /// PCI numbers of maker and model.
    model: (u32, u32),
    /// Where it sits, if the API says.
    bus: String,
}

impl Card {
    fn of(info: &wgpu::AdapterInfo) -> Card {
        let bus = info.device_pci_bus_id.clone();
        Card { api: info.backend, model: (info.vendor, info.device), bus }
    }

    /// Whether another API showed this card already. Where the bus is unknown, the n-th card of a
    /// model under one API is the n-th under another.
    fn is_shown_before(&self, before: &[Card]) -> bool {
        let alike = || before.iter().filter(|card| card.model == self.model);
        let others = || alike().filter(|card| card.api != self.api);
        if !self.bus.is_empty() && others().any(|card| card.bus == self.bus) {
            return true;
        }
        let nth = alike().filter(|card| card.api == self.api).count();
        let known = |card: &&Card| !self.bus.is_empty() && !card.bus.is_empty();
        APIS.iter().any(|api| others().filter(|c| c.api == *api && !known(c)).count() > nth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::Backend::{Dx12, Vulkan};

    fn card(api: wgpu::Backend, model: u32, bus: &str) -> Card {
        Card { api, model: (0x10DE, model), bus: bus.to_owned() }
    }

    fn shown(cards: &[Card]) -> Vec<bool> {
        (0..cards.len()).map(|i| !cards[i].is_shown_before(&cards[..i])).collect()
    }

    #[test]
    fn a_card_under_two_apis_is_listed_once() {
        assert_eq!(shown(&[card(Vulkan, 1, ""), card(Dx12, 1, "")]), [true, false]);
        assert_eq!(shown(&[card(Vulkan, 1, "a"), card(Dx12, 1, "a")]), [true, false]);
        assert_eq!(shown(&[card(Vulkan, 1, "a"), card(Dx12, 1, "")]), [true, false]);
    }

    #[test]
    fn two_cards_of_a_model_are_two() {
        let two = [card(Vulkan, 1, "a"), card(Vulkan, 1, "b")];
        assert_eq!(shown(&two), [true, true]);
        let twice = [two[0].clone(), two[1].clone(), card(Dx12, 1, ""), card(Dx12, 1, "")];
        assert_eq!(shown(&twice), [true, true, false, false]);
        assert_eq!(shown(&[card(Vulkan, 1, "a"), card(Dx12, 1, "b")]), [true, true]);
        let one_more = [card(Vulkan, 1, ""), card(Dx12, 1, ""), card(Dx12, 1, "")];
        assert_eq!(shown(&one_more), [true, false, true]);
        assert_eq!(shown(&[card(Vulkan, 1, ""), card(Dx12, 2, "")]), [true, true]);
    }

    #[test]
    fn names_match_by_any_part_in_any_case() {
        let info = AdapterInfo {
            index: 0,
            name: "NVIDIA H100".into(),
            driver: String::new(),
            api: "vulkan".into(),
            kind: Kind::Discrete,
            max_binding: 0,
        };
        assert!(info.matches_name("h100") && info.matches_name("nvidia"));
        assert!(!info.matches_name("amd") && !info.matches_name(""));
    }
}
