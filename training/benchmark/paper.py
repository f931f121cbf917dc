"""Tables IV to XI of Charachon et al., arXiv:2012.07332, as data, under this project's row names.

A row is a preset or a method, with "+aug" where explanations were averaged over ten augmentations (equation 11). The
paper's classifier is a ResNet50, its images are the 569 positive RSNA test patients, its times are seconds per image
on an NVIDIA MX130. Grad-CAM's total AUC is .324 in Table IX and .326 in Table XI; both stand here as printed.
"""

from collections.abc import Mapping

PERCENTILES = (80, 85, 90, 95, 98)

NAMES: Mapping[str, str] = {
    "adversarial_tv": "Naive, Adv. (TV)",
    "duo_tv": "Duo (TV)",
    "duo_w_tv": "Duo (W,TV)",
    "single_1_tv": "Single_1 (TV)",
    "single_1_w": "Single_1 (W)",
    "single_1_w_tv": "Single_1 (W,TV)",
    "single_2_w": "Single_2 (W)",
    "single_2_w_tv": "Single_2 (W,TV)",
    "gradient": "Gradient",
    "smooth_gradient": "SmoothGrad",
    "input_gradient": "Input x Gradient",
    "integrated_gradients": "Integrated Gradients",
    "grad_cam": "GradCAM",
    "bbmp": "BBMP",
    "perceptual_perturbation": "Perceptual Perturbation",
    "mask_generator": "Mask Generator",
    "adversarial": "Naive adversarial",
    "similar_adversarial": "Similar/adversarial",
}
"""The paper's name of each row, in the paper's order."""

PRESETS = tuple(NAMES)[1:8]
"""The generators of Tables I and IV to VII, without the naive one."""

TABLE_IV: Mapping[str, tuple[float | None, float]] = {
    "adversarial_tv": (None, 0.939),
    "duo_tv": (1.0, 0.905),
    "duo_w_tv": (1.0, 0.958),
    "single_1_tv": (1.0, 0.961),
    "single_1_w": (0.998, 0.952),
    "single_1_w_tv": (0.997, 0.944),
    "single_2_w": (0.998, 0.949),
    "single_2_w_tv": (0.998, 0.952),
}
"""ROC AUC of f(x_s) against y(x), and of f(x_a) against 1 - y(x)."""

TABLE_V: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "adversarial_tv": {"x_a": (0.994, 41.92)},
    "duo_tv": {"x_s": (0.996, 44.07), "x_a": (0.987, 39.47), "s_a": (0.994, 43.89)},
    "duo_w_tv": {"x_s": (0.995, 41.99), "x_a": (0.987, 39.08), "s_a": (0.995, 44.26)},
    "single_1_tv": {"x_s": (0.997, 44.57), "x_a": (0.989, 40.67), "s_a": (0.996, 45.25)},
    "single_1_w": {"x_s": (0.994, 42.73), "x_a": (0.993, 41.85), "s_a": (0.999, 52.59)},
    "single_1_w_tv": {"x_s": (0.992, 41.79), "x_a": (0.991, 41.35), "s_a": (0.999, 54.55)},
    "single_2_w": {"x_s": (0.995, 43.61), "x_a": (0.994, 42.42), "s_a": (0.999, 52.26)},
    "single_2_w_tv": {"x_s": (0.995, 43.88), "x_a": (0.994, 42.63), "s_a": (0.999, 51.93)},
}
"""SSIM and PSNR in dB of the pairs (x, x_s), (x, x_a) and (x_s, x_a)."""

TABLE_VI: Mapping[str, tuple[float, ...]] = {
    "duo_tv": (0.190, 0.182, 0.164, 0.122, 0.070),
    "duo_w_tv": (0.188, 0.184, 0.170, 0.132, 0.079),
    "single_1_tv": (0.187, 0.182, 0.166, 0.127, 0.075),
    "single_1_w": (0.227, 0.222, 0.204, 0.157, 0.090),
    "single_1_w_tv": (0.234, 0.235, 0.220, 0.171, 0.099),
    "single_2_w": (0.240, 0.245, 0.229, 0.172, 0.095),
    "single_2_w_tv": (0.248, 0.250, 0.232, 0.173, 0.097),
    "duo_tv+aug": (0.243, 0.232, 0.206, 0.156, 0.085),
    "duo_w_tv+aug": (0.263, 0.253, 0.227, 0.166, 0.093),
    "single_1_tv+aug": (0.262, 0.249, 0.218, 0.156, 0.086),
    "single_1_w+aug": (0.262, 0.254, 0.233, 0.181, 0.105),
    "single_1_w_tv+aug": (0.268, 0.261, 0.240, 0.188, 0.112),
    "single_2_w+aug": (0.288, 0.288, 0.268, 0.204, 0.115),
    "single_2_w_tv+aug": (0.292, 0.292, 0.272, 0.206, 0.115),
}
"""IoU at PERCENTILES."""

TABLE_VII: Mapping[str, tuple[float, float]] = {
    "duo_w_tv": (0.257, 0.162),
    "single_1_tv": (0.253, 0.157),
    "single_1_w": (0.310, 0.220),
    "single_1_w_tv": (0.325, 0.239),
    "single_2_w": (0.325, 0.248),
    "single_2_w_tv": (0.339, 0.256),
    "duo_w_tv+aug": (0.362, 0.263),
    "single_1_tv+aug": (0.353, 0.254),
    "single_1_w+aug": (0.370, 0.274),
    "single_1_w_tv+aug": (0.381, 0.287),
    "single_2_w+aug": (0.405, 0.322),
    "single_2_w_tv+aug": (0.412, 0.328),
}
"""Total and partial (percentiles 80 to 100) area under the precision-recall curve."""

TABLE_VIII: Mapping[str, tuple[float, ...]] = {
    "gradient": (0.203, 0.199, 0.187, 0.152, 0.097),
    "smooth_gradient": (0.192, 0.188, 0.176, 0.143, 0.091),
    "input_gradient": (0.191, 0.185, 0.170, 0.136, 0.086),
    "integrated_gradients": (0.176, 0.171, 0.157, 0.124, 0.077),
    "grad_cam": (0.237, 0.225, 0.195, 0.138, 0.070),
    "bbmp": (0.233, 0.226, 0.204, 0.154, 0.087),
    "perceptual_perturbation": (0.133, 0.125, 0.110, 0.080, 0.045),
    "mask_generator": (0.222, 0.219, 0.208, 0.169, 0.103),
    "adversarial_tv": (0.177, 0.173, 0.158, 0.118, 0.064),
    "single_2_w_tv": (0.248, 0.250, 0.232, 0.173, 0.097),
    "single_2_w_tv+aug": (0.292, 0.292, 0.272, 0.206, 0.115),
}
"""IoU at PERCENTILES, baselines."""

TABLE_IX: Mapping[str, tuple[float, float, float]] = {
    "gradient": (0.287, 0.189, 2.04),
    "integrated_gradients": (0.244, 0.146, 1.93),
    "grad_cam": (0.324, 0.235, 0.78),
    "bbmp": (0.326, 0.229, 17.14),
    "perceptual_perturbation": (0.180, 0.084, 30.74),
    "mask_generator": (0.327, 0.226, 0.09),
    "adversarial_tv": (0.238, 0.145, 0.10),
    "single_2_w_tv": (0.339, 0.256, 0.05),
    "single_2_w_tv+aug": (0.412, 0.328, 0.63),
}
"""Total and partial AUC, and seconds per image."""

TABLE_X: Mapping[str, tuple[float, ...]] = {
    "gradient": (0.203, 0.199, 0.187, 0.152, 0.097),
    "gradient+aug": (0.256, 0.252, 0.236, 0.190, 0.117),
    "grad_cam": (0.237, 0.225, 0.195, 0.138, 0.070),
    "grad_cam+aug": (0.271, 0.263, 0.244, 0.190, 0.105),
    "bbmp": (0.233, 0.226, 0.204, 0.154, 0.087),
    "mask_generator": (0.222, 0.219, 0.208, 0.169, 0.103),
    "mask_generator+aug": (0.259, 0.264, 0.259, 0.221, 0.137),
    "adversarial_tv": (0.177, 0.173, 0.158, 0.118, 0.064),
    "adversarial_tv+aug": (0.239, 0.230, 0.208, 0.156, 0.087),
    "single_2_w_tv": (0.248, 0.250, 0.232, 0.173, 0.097),
    "single_2_w_tv+aug": (0.292, 0.292, 0.272, 0.206, 0.115),
}
"""IoU at PERCENTILES, each method plain and with augmentation."""

TABLE_XI: Mapping[str, tuple[float, float, float]] = {
    "gradient": (0.287, 0.189, 2.04),
    "gradient+aug": (0.374, 0.274, 2.83),
    "grad_cam": (0.326, 0.235, 0.78),
    "grad_cam+aug": (0.397, 0.302, 5.09),
    "bbmp": (0.326, 0.229, 17.14),
    "mask_generator": (0.327, 0.226, 0.09),
    "mask_generator+aug": (0.404, 0.308, 0.68),
    "adversarial_tv": (0.238, 0.145, 0.10),
    "adversarial_tv+aug": (0.325, 0.232, 0.75),
    "single_2_w_tv": (0.339, 0.256, 0.05),
    "single_2_w_tv+aug": (0.412, 0.328, 0.63),
}
"""Total and partial AUC and seconds per image, each method plain and with augmentation."""
