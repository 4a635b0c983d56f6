"""How does a certificate read?"""

from __future__ import annotations

from apex_sim.planner.answer import SearchResult
from apex_sim.report.quantity import counted, metric_text, percent


def certificate_sentences(result: SearchResult) -> list[str]:
    """Return what was looked at, how far the best can be from the best possible, and how sure its figure is."""
    certificate = result.certificate
    parts = [f"{certificate.n_simulated} simulated on the whole workload"]
    if certificate.n_pruned:
        parts.append(f"{certificate.n_pruned} ruled out by bounds")
    if certificate.n_open:
        parts.append(f"{certificate.n_open} left open")
    parts.append(f"{certificate.n_infeasible} cannot run or run as another")
    sentences = [f"{counted(certificate.n_enumerated, 'plan')} looked at: {', '.join(parts)}."]
    if result.interrupted:
        sentences.append("The search was interrupted: this is the best so far.")
    if certificate.best is None or certificate.gap_frac is None or certificate.bound is None:
        return sentences
    name = certificate.objective
    if certificate.gap_frac <= 0.0:
        how = "Proven" if certificate.proven else "By the bounds of single requests"
        sentences.append(f"{how}: no plan of the space is better in simulation.")
    else:
        how = (
            "No plan can be"
            if certificate.proven
            else "By the bounds of single requests, which prove no percentile, no plan is"
        )
        sentences.append(
            f"{how} better in simulation by more than {percent(certificate.gap_frac)} "
            f"(bound {metric_text(name, certificate.bound)})."
        )
    if certificate.sampling_frac:
        sentences.append(
            f"Other requests like these would move the best's figure by {percent(certificate.sampling_frac)}."
        )
    return sentences
