"""The linear theory of section 3 of the paper: exact minimisers, closed forms, sweeps."""

from advspur.theory.certificate import duality_gap as duality_gap
from advspur.theory.cues import CueReliance as CueReliance
from advspur.theory.cues import cue_sizes as cue_sizes
from advspur.theory.cues import predict_reliance as predict_reliance
from advspur.theory.cues import two_cue_model as two_cue_model
from advspur.theory.estimate import CoreTest as CoreTest
from advspur.theory.estimate import GaussianFit as GaussianFit
from advspur.theory.estimate import Normality as Normality
from advspur.theory.estimate import fit_gaussian_linear_model as fit_gaussian_linear_model
from advspur.theory.limits import collapse_radius as collapse_radius
from advspur.theory.limits import critical_spurious_scale as critical_spurious_scale
from advspur.theory.limits import epsilon_of_first_reliance as epsilon_of_first_reliance
from advspur.theory.limits import epsilon_of_full_reliance as epsilon_of_full_reliance
from advspur.theory.limits import limit_nfs as limit_nfs
from advspur.theory.limits import phase_diagram as phase_diagram
from advspur.theory.limits import plateau_onset as plateau_onset
from advspur.theory.linear_model import GaussianLinearModel as GaussianLinearModel
from advspur.theory.linear_model import adversarial_loss as adversarial_loss
from advspur.theory.linear_model import gaussian_linear_model as gaussian_linear_model
from advspur.theory.linear_model import norm_fraction_spurious as norm_fraction_spurious
from advspur.theory.linear_model import restrict_to_core as restrict_to_core
from advspur.theory.linear_model import standard_loss as standard_loss
from advspur.theory.linear_model import worst_case_perturbation as worst_case_perturbation
from advspur.theory.paths import RegularizationPath as RegularizationPath
from advspur.theory.paths import regularization_path as regularization_path
from advspur.theory.prescription import WeightSweep as WeightSweep
from advspur.theory.prescription import break_even_budget as break_even_budget
from advspur.theory.prescription import nfs_rate as nfs_rate
from advspur.theory.prescription import protective_weight as protective_weight
from advspur.theory.prescription import sweep_budget_weights as sweep_budget_weights
from advspur.theory.reliance import Reliance as Reliance
from advspur.theory.reliance import estimate_reliance as estimate_reliance
from advspur.theory.sampling import (
    minimize_empirical_adversarial_loss as minimize_empirical_adversarial_loss,
)
from advspur.theory.sampling import monte_carlo_adversarial_loss as monte_carlo_adversarial_loss
from advspur.theory.sampling import sample_data as sample_data
from advspur.theory.shift import expected_shifted_loss as expected_shifted_loss
from advspur.theory.solve import RobustMinimizer as RobustMinimizer
from advspur.theory.solve import minimize_adversarial_loss as minimize_adversarial_loss
from advspur.theory.sweeps import NfsSweep as NfsSweep
from advspur.theory.sweeps import ShiftSweep as ShiftSweep
from advspur.theory.sweeps import sweep_distribution_shift as sweep_distribution_shift
from advspur.theory.sweeps import sweep_nfs as sweep_nfs
from advspur.theory.sweeps import sweep_nfs_over_scale as sweep_nfs_over_scale
