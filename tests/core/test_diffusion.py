"""Joint diffusion: the split network, the schedule, the spaces, and counterfactuals as laws."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from explain_core.diffusion import counterfactual as chains
from explain_core.diffusion.autoencoders import Identity, KLAutoencoder, TinyAutoencoder
from explain_core.diffusion.counterfactual import Settings, counterfactual, denoise
from explain_core.diffusion.joint_unet import JointConfig, JointUNet
from explain_core.diffusion.model import Guidance, JointDiffusion
from explain_core.diffusion.schedule import clean, inverter, kept, noised, sampler
from explain_core.errors import AttributionError, BundleError

SMALL = JointConfig(
    size=16, latent_channels=1, outputs=3, channels=(8, 16), attention=(False, True), layers=1, head_dim=8, groups=8,
    hidden=16,
)  # fmt: skip
QUICK = Settings(steps=20, halvings=5)


def network(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return JointUNet(config).eval()


def model(seed=0):
    return JointDiffusion(Identity(), network(seed=seed)).eval()


class Brightness(nn.Module):
    """The exact denoiser of pixels of a Gaussian of width 0.5, with a head that calls bright what is bright."""

    def __init__(self, outputs=2, size=8):
        super().__init__()
        self.config = replace(SMALL, size=size, outputs=outputs)
        self.left = kept()

    def forward(self, z, t):
        left = self.left[t].view(-1, 1, 1, 1)
        return (1 - left).sqrt() * z / (left / 4 + 1 - left)

    def classify(self, z, t=None):  # noqa: ARG002 - as the real one
        return (z.mean(dim=(1, 2, 3)) * 8)[:, None].repeat(1, self.config.outputs)


def bright():
    return JointDiffusion(Identity(), Brightness())


def images(count=3, size=16, seed=1):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed))


# --- the network


@pytest.mark.parametrize("channels", [(8, 16), (8, 8, 16)])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_split_network_is_the_whole_one(channels, layers):
    attention = (False,) * (len(channels) - 1) + (True,)
    made = network(replace(SMALL, channels=channels, attention=attention, layers=layers))
    z, t = torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    torch.testing.assert_close(made(z, t), made.unet(z, t).sample, rtol=0, atol=0)
    assert made.features(made.encode(z, t)).shape == (2, made.config.features)


def test_the_authors_network_has_their_number_of_features():
    config = replace(SMALL, size=32, channels=(192, 384, 768), attention=(True, True, True), layers=2, groups=32)
    assert config.features == 4224  # printed by their code for 192 channels


def test_the_head_sees_every_part_of_the_encoder_half_and_none_of_the_decoder():
    made = network()
    made.classify(torch.randn(2, 1, 16, 16)).sum().backward()
    moved = {
        name for name, value in made.unet.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0
    }
    assert any(name.startswith("conv_in") for name in moved)
    assert any(name.startswith("mid_block") for name in moved)
    assert all(any(name.startswith(f"down_blocks.{level}") for name in moved) for level in range(2))
    assert not any(name.startswith(("up_blocks", "conv_out")) for name in moved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": (True,)}, "2 levels of channels and 1"),
        ({"size": 15}, "cannot be halved"),
        ({"groups": 7}, "7 groups do not divide"),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


# --- the schedule


def test_the_clean_latent_is_the_inverse_of_noising():
    z, noise, left = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8), kept()[torch.tensor([0, 10, 300, 900])]
    torch.testing.assert_close(clean(noised(z, noise, left), noise, left), z, rtol=1e-3, atol=1e-4)


def test_the_schedule_is_the_one_of_latent_diffusion():
    left = kept()
    assert [round(float(left[step]), 2) for step in (200, 300, 500)] == [0.61, 0.41, 0.11]
    assert bool((left.diff() < 0).all())


def test_inverting_and_denoising_give_a_gaussian_back():
    """By the exact denoiser of a Gaussian of width 0.5; more steps come nearer."""
    left, width = kept(), 0.5
    x = torch.randn(2000, generator=torch.Generator().manual_seed(0)) * width

    def noise(z, step):
        a = left[step]
        return (1 - a).sqrt() * z / (a * width**2 + 1 - a)

    errors = []
    for count in (20, 100):
        z = x.clone()
        for step in inverter(count).timesteps:
            z = inverter(count).step(noise(z, step), step, z).prev_sample
        for step in sampler(count).timesteps:
            z = sampler(count).step(noise(z, step), step, z).prev_sample
        errors.append(float((z - x).abs().mean()))
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.05


# --- the spaces


def test_pixels_come_back_as_they_were():
    x = images()
    torch.testing.assert_close(Identity().decode(Identity().encode(x)), x)


def test_an_autoencoder_of_ones_own_has_the_shape_that_it_says():
    space = KLAutoencoder(widths=(8, 8, 16), channels=2)
    latents = space.encode(images(size=32))
    assert (space.factor, latents.shape) == (4, (3, 2, 8, 8))
    assert space.decode(latents).shape == (3, 1, 32, 32)


def test_the_tiny_autoencoder_gives_radiographs_back(shared_data):
    import numpy as np
    from PIL import Image

    space = TinyAutoencoder(shared_data / "weights_taef2")
    file = min((shared_data / "nih_cxr14_subset" / "images").iterdir())
    pixels = np.asarray(Image.open(file).convert("L").resize((224, 224)), np.float32) / 255
    x = torch.from_numpy(pixels)[None, None]
    with torch.no_grad():
        latents = space.encode(x)
        error = (space.decode(latents).clamp(0, 1) - x).pow(2).mean()
    assert latents.shape == (1, 32, 28, 28)
    assert -10 * torch.log10(error) > 33


def test_weights_that_are_none_are_refused(tmp_path):
    with pytest.raises(BundleError, match=r"taef2_encoder\.pth: no weights of the tiny autoencoder"):
        TinyAutoencoder(tmp_path)


def test_a_model_refuses_images_of_another_size_and_latents_of_another_space():
    with pytest.raises(ValueError, match=r"\(N, 1, 16, 16\) are needed, got \(2, 1, 8, 8\)"):
        model()(images(2, 8))
    with pytest.raises(ValueError, match="latents of 4 channels"):
        JointDiffusion(KLAutoencoder(widths=(8, 8), channels=4), network())


# --- counterfactuals


def test_without_guidance_the_chain_does_not_know_the_class():
    made, noisy = model(), torch.randn(2, 1, 16, 16)
    nothing = torch.zeros(2)
    chained = [denoise(made, noisy, Guidance(output, target, nothing), QUICK) for output in (0, 2) for target in (0, 1)]
    assert all(torch.equal(one, chained[0]) for one in chained)
    guided = denoise(made, noisy, Guidance(0, 1, torch.full((2,), 500.0)), QUICK)
    assert not torch.allclose(guided, chained[0])


def test_guidance_of_one_image_is_its_own():
    made, noisy = model(), torch.randn(2, 1, 16, 16)
    both = denoise(made, noisy, Guidance(0, 1, torch.tensor([0.0, 300.0])), QUICK)
    alone = denoise(made, noisy[1:], Guidance(0, 1, torch.tensor([300.0])), QUICK)
    nothing = denoise(made, noisy[:1], Guidance(0, 1, torch.tensor([0.0])), QUICK)
    torch.testing.assert_close(both, torch.cat([nothing, alone]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("target", [0, 1])
def test_the_least_guidance_that_crosses_the_threshold_is_found(target):
    made, shift = bright(), -0.2 if target else 0.2
    x = (images(4, 8) * 0.2 + 0.4 + shift).clamp(0, 1)
    found = counterfactual(made, x, 0, target, replace(QUICK, limit=100.0, halvings=8))
    assert bool(found.reached.all())
    assert bool(((found.after >= 0.5) == bool(target)).all())
    noisy = chains._noisy(made, made.encode(x), QUICK)
    for scales, crosses in ((found.scales, True), (found.scales - 100 / 2**8, False)):
        latents = denoise(made, noisy, Guidance(0, target, scales.clamp(min=0)), QUICK)
        called = made.network.classify(latents)[:, 0].sigmoid() >= 0.5
        needed = found.scales > 0
        assert bool(((called == bool(target)) == crosses)[needed].all())


@pytest.mark.parametrize("target", [0, 1])
def test_as_sure_as_of_such_images_takes_more_guidance_than_the_threshold(target):
    made, shift = bright(), -0.2 if target else 0.2
    x = (images(4, 8) * 0.2 + 0.4 + shift).clamp(0, 1)
    how = replace(QUICK, limit=100.0, halvings=8)
    least = counterfactual(made, x, 0, target, replace(how, aim="threshold"))
    assert torch.equal(counterfactual(made, x, 0, target, how).scales, least.scales), "nothing is known of such images"
    made.typical.copy_(torch.tensor([[0.4, 0.6], [0.0, 1.0]]))
    surer = counterfactual(made, x, 0, target, how)
    assert bool(((surer.after >= 0.6) if target else (surer.after <= 0.4)).all())
    assert bool((surer.scales > least.scales).all())
    assert bool(surer.reached.all())
    assert torch.equal(counterfactual(made, x, 0, target, replace(how, aim="threshold")).scales, least.scales)
    made.typical.copy_(torch.tensor([[0.6, 0.4], [0.0, 1.0]]))
    assert torch.equal(counterfactual(made, x, 0, target, how).scales, least.scales), "the threshold at least"
    away = counterfactual(made, x, 1, target, how)
    assert torch.equal(away.reached, (away.after >= 0.5) == bool(target)), "reached is the decision, not the aim"


@pytest.mark.parametrize("target", [0, 1])
def test_a_head_that_is_beyond_doubt_sets_no_stronger_pull_than_one_that_is_nearly(target):
    made, shift = bright(), -0.2 if target else 0.2
    own = made.network.classify
    made.network.classify = lambda z, t=None: own(z, t) * 4
    x = (images(4, 8) * 0.2 + 0.4 + shift).clamp(0, 1)
    scales = []
    for sure in (1.0, 1 - 1e-4):
        made.typical[0, target] = sure if target else 1 - sure
        found = counterfactual(made, x, 0, target, replace(QUICK, limit=400.0, halvings=8))
        scales.append(found.scales)
        assert bool(found.reached.all())
    assert torch.equal(*scales)
    assert bool((scales[0] < 400).all())


def test_the_change_is_taken_to_the_decoded_original():
    """An autoencoder that gives back something else is no evidence."""

    class Lossy(Identity):
        def decode(self, latents):
            return super().decode(latents) * 0.5

    made = JointDiffusion(Lossy(), Brightness())
    x = images(1, 8) * 0.2 + 0.2
    found = counterfactual(made, x, 0, 1, replace(QUICK, limit=100.0))
    torch.testing.assert_close(found.original, x * 0.5)
    torch.testing.assert_close(found.difference, (found.changed - x * 0.5).abs())


def test_a_pull_that_is_too_strong_is_not_taken_for_none_that_suffices():
    """A head that is lost beyond a brightness: the strongest pull overshoots, a middle one does not."""
    made = bright()
    own = made.network.classify
    made.network.classify = lambda z, t=None: own(z, t) - 100 * (z.mean(dim=(1, 2, 3)) > 0.6)[:, None]
    x = images(2, 8) * 0.2 + 0.2
    found = counterfactual(made, x, 0, 1, replace(QUICK, limit=5000.0))
    assert bool(found.reached.all())
    assert bool((found.scales < 5000).all())


def test_a_limit_that_does_not_suffice_is_said():
    made = bright()
    found = counterfactual(made, images(2, 8) * 0.1, 0, 1, replace(QUICK, limit=1e-6))
    assert not bool(found.reached.any())


def test_an_answer_that_is_there_already_is_not_sought():
    with pytest.raises(AttributionError, match=r"2 of 2 images .* there is nothing to remove"):
        counterfactual(bright(), images(2, 8) * 0.1, 0, 0, QUICK)


@pytest.mark.parametrize(("output", "target", "message"), [(5, 1, "outputs 0 to 1, not 5"), (0, 2, "remove")])
def test_a_finding_or_a_target_that_there_is_not_is_refused(output, target, message):
    with pytest.raises(ValueError, match=message):
        counterfactual(bright(), images(1, 8) * 0.1, output, target, QUICK)


def test_a_chain_that_leaves_the_numbers_is_stopped():
    made = bright()
    made.network.classify = lambda z, t=None: (z * float("inf")).mean(dim=(1, 2, 3))[:, None].repeat(1, 2)  # noqa: ARG005
    with pytest.raises(AttributionError, match="left the numbers"):
        denoise(made, torch.randn(1, 1, 8, 8), Guidance(0, 1, torch.ones(1)), QUICK)


def test_inverted_noise_comes_back_nearer_to_the_image():
    made, x = bright(), images(2, 8) * 0.1 + 0.1
    random, inverted = (
        counterfactual(made, x, 0, 1, replace(QUICK, limit=50.0, noise=noise)) for noise in ("random", "inverted")
    )
    assert (inverted.unguided - inverted.original).abs().mean() <= (random.unguided - random.original).abs().mean()


def test_progress_is_told_to_the_end():
    told = []
    counterfactual(bright(), images(1, 8) * 0.1, 0, 1, replace(QUICK, doublings=2, halvings=2), tell=told.append)
    assert (told[0], told[-1]) == pytest.approx((1 / 6, 1))
    assert told == sorted(told)


@pytest.mark.parametrize("start", [0, 1001])
def test_a_start_outside_the_schedule_is_refused(start):
    with pytest.raises(ValueError, match="start lies between 1 and 1000"):
        Settings(start=start)
