"""What stands in the simulated fab: its tools, the route of a lot, and the programs that report. Data only."""

from typing import Final, NamedTuple
from uuid import NAMESPACE_URL, uuid5

from fabmon.wire.event import App

Range = tuple[float, float]


class Step(NamedTuple):
    """A step of a lot's route: a recipe, the tools that run it, what they measure (mean, sigma), what goes wrong."""

    recipe: str
    area: str
    metrics: dict[str, Range]
    errors: tuple[str, ...]


class Program(NamedTuple):
    """An application: how often it runs (*weight*), on how many wafers (none: no subjobs), how long for each or in all.

    *cores* is the CPU time per second, *memory_mb* the peak. Without *metrics* and *errors*, those of the lot's step
    hold.
    """

    app: App
    weight: float
    wafers: tuple[int, int] | None
    seconds: Range
    cores: float
    memory_mb: Range
    area: str | None = None
    metrics: dict[str, Range] | None = None
    errors: tuple[str, ...] = ()


def _app(name: str, version: str) -> App:
    return App(uuid5(NAMESPACE_URL, f"fabmon:app:{name}"), name, version)


TOOLS: Final[dict[str, tuple[str, ...]]] = {
    "LITHO": ("LITHO-01", "LITHO-02", "LITHO-03", "LITHO-05"),
    "ETCH": ("ETCH-03", "ETCH-04", "ETCH-07", "ETCH-08", "ETCH-11"),
    "CVD": ("CVD-01", "CVD-02", "CVD-06", "CVD-09"),
    "CMP": ("CMP-01", "CMP-02", "CMP-04"),
    "IMPL": ("IMPL-01", "IMPL-02", "IMPL-04"),
    "METRO": ("METRO-01", "METRO-02", "METRO-03"),
    "INSP": ("INSP-01", "INSP-02"),
}
PRODUCTS: Final = ("PMIC-130", "MCU-40", "RF-SOI-65", "CIS-90")
WAFER_COUNTS: Final = (25, 25, 25, 25, 25, 24, 24, 23, 13, 12)

_LITHO: Final[dict[str, Range]] = {"dose_mj_cm2": (28.5, 0.3), "focus_nm": (-12.0, 9.0), "overlay_nm": (2.6, 0.7)}
_LITHO_ERRORS: Final = (
    "overlay out of control: mean+3s 9.8 nm, limit 6.0 nm; exposure stopped",
    "reticle pre-alignment failed 3 times: mark contrast 0.11 below 0.20",
    "wafer stage chuck vacuum lost (62 kPa, needs 75 kPa)",
    "resist dispense: nozzle 2 flow deviation 18 %",
)
_ETCH: Final[dict[str, Range]] = {
    "temperature_c": (62.0, 0.9),
    "pressure_mtorr": (14.8, 0.5),
    "rf_forward_w": (1200.0, 12.0),
    "he_flow_sccm": (1.3, 0.15),
}
_ETCH_ERRORS: Final = (
    "RF reflected power 148 W above limit 60 W for 2.0 s (step 4, main etch)",
    "no endpoint before the maximum etch time: OES 483 nm slope flat; chamber B put on hold",
    "helium backside cooling leak 4.1 sccm, limit 2.5 sccm; wafer not clamped",
    "turbo pump TMP-2 speed 91 %, interlock opened",
)
_CVD: Final[dict[str, Range]] = {
    "temperature_c": (398.0, 2.0),
    "pressure_torr": (4.2, 0.06),
    "thickness_nm": (512.0, 4.0),
}
_CVD_ERRORS: Final = (
    "MFC-3 (SiH4) flow 0.0 sccm, setpoint 120 sccm: gas box valve closed",
    "heater zone 2 deviation 11.4 C above setpoint",
    "particle adders 214 > 0.09 um on monitor wafer, limit 50",
)
_CMP: Final[dict[str, Range]] = {
    "down_force_psi": (3.1, 0.06),
    "slurry_flow_ml_min": (200.0, 4.0),
    "removal_nm": (285.0, 6.0),
}
_CMP_ERRORS: Final = (
    "slurry loop pressure low: 0.8 bar, limit 1.2 bar; polishing aborted",
    "wafer slip detected on head 3, motor current spike 18.2 A",
    "pad life 612 of 600 wafers used: conditioning required",
)
_IMPL: Final[dict[str, Range]] = {
    "beam_current_ma": (9.4, 0.15),
    "dose_error_pct": (0.0, 0.25),
    "pressure_utorr": (3.1, 0.2),
}
_IMPL_ERRORS: Final = (
    "beam setup timeout: 11B+ current 4.1 mA below 8.5 mA after 3 tries",
    "dose integrator deviation 2.3 % exceeds 1.0 % at scan 41",
    "arc suppression: 14 glitches in 10 s on extraction electrode",
)

ROUTE: Final = (
    Step("M1-LITHO-193i", "LITHO", _LITHO, _LITHO_ERRORS),
    Step("M1-ETCH-CF4", "ETCH", _ETCH, _ETCH_ERRORS),
    Step("ILD-TEOS-500", "CVD", _CVD, _CVD_ERRORS),
    Step("ILD-CMP-OX", "CMP", _CMP, _CMP_ERRORS),
    Step("NWELL-B11-180K", "IMPL", _IMPL, _IMPL_ERRORS),
    Step("VIA1-LITHO-193d", "LITHO", _LITHO, _LITHO_ERRORS),
    Step("VIA1-ETCH-C4F8", "ETCH", _ETCH, _ETCH_ERRORS),
    Step("W-FILL-CVD", "CVD", _CVD, _CVD_ERRORS),
    Step("W-CMP-2STEP", "CMP", _CMP, _CMP_ERRORS),
)

PROGRAMS: Final = (
    Program(_app("recipe-runner", "4.12.3"), 38, (25, 25), (4, 11), 0.06, (140, 260)),
    Program(
        _app("lot-dispatcher", "2.31.0"), 18, None, (2, 15), 0.55, (210, 380),
        metrics={"lots_waiting": (46, 9), "moves_planned": (18, 5)},
        errors=("no tool qualified for VIA1-ETCH-C4F8: ETCH-04 down, ETCH-07 in PM", "WIP snapshot is 412 s old"),
    ),
    Program(
        _app("metrology-import", "1.9.2"), 14, (5, 9), (2, 7), 0.35, (180, 640), area="METRO",
        metrics={"overlay_nm": (2.8, 0.8), "cd_nm": (45.2, 0.5), "thickness_nm": (508.0, 4.0)},
        errors=("KLARF file truncated at line 18211: no EndOfFile record", "13 of 17 sites measured; lot not released"),
    ),
    Program(
        _app("defect-classifier", "0.18.4"), 12, (2, 6), (10, 40), 3.4, (2100, 7800), area="INSP",
        metrics={"particle_count": (38, 14), "nuisance_ratio": (0.21, 0.05)},
        errors=("out of memory: batch of 512 defect images needs 9.1 of 8 GB", "model v18 does not know layer W-CMP"),
    ),
    Program(
        _app("mes-bridge", "7.4.1"), 10, None, (1, 8), 0.2, (90, 160),
        metrics={"messages": (320, 60), "queue_depth": (12, 6)},
        errors=("MES refused TrackOut: lot is on hold (code 2114)", "SECS/GEM S6F11: unknown CEID 4107 from ETCH-07"),
    ),
    Program(
        _app("spc-watch", "5.0.1"), 8, None, (5, 40), 0.8, (260, 520),
        metrics={"cpk": (1.52, 0.15), "points": (900, 120)},
        errors=("chart CD_M1: subgroup 2218 has no raw data, limits not computed", "chart limits for OVL_VIA1 expired"),
    ),
    Program(
        _app("nightly-yield-report", "3.2.0"), 1.5, (6, 14), (14, 40), 1.6, (900, 3400),
        metrics={"yield_pct": (91.5, 2.2), "bin2_pct": (3.1, 0.8)},
        errors=("wafer map has 1204 dies, product expects 1312: notch turned?", "probe data of 3 lots not loaded"),
    ),
)  # fmt: skip

CANCEL_REASONS: Final = (
    "lot put on engineering hold",
    "tool taken for unscheduled maintenance",
    "superseded by a later run",
    "priority lot needs the tool",
)
SURVIVED: Final = (
    "sensor read timeout, repeated",
    "load port B: carrier ID read on second try",
    "database connection lost, reconnected after 1.4 s",
    "SPC warning: 7 points on one side of the mean",
)
