"""python -m deploy.grafana.dashboards: write the dashboards of `panels.py` as JSON, with Grafana's own SDK, into dashboards/."""

from __future__ import annotations

from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as values
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableHide, VariableRefresh
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from deploy.grafana.panels import BOARDS, Board, Panel

OUT = Path(__file__).parent / "dashboards"
_SOURCE = DataSourceRef(type_val="prometheus", uid="$source")
_HEIGHT = 8
_Built = timeseries.Panel | stat.Panel | heatmap.Panel


def written(board: Board) -> str:
    """A dashboard's JSON, the same for the same panels."""
    return JSONEncoder(sort_keys=True, indent=2).encode(_dashboard(board).build()) + "\n"


def _dashboard(board: Board) -> dashboard.Dashboard:
    built = (
        dashboard.Dashboard(board.title)
        .uid(board.uid)
        .description(board.description)
        .tags(["hauberk"])
        .refresh("30s")
        .time("now-3h", "now")
        .timezone("browser")
        .readonly()
        .with_variable(dashboard.DatasourceVariable("source").type("prometheus").label("Prometheus"))
        .with_variable(_instances())
    )
    for heading, panels in board.rows:
        built = built.with_row(dashboard.Row(heading))
        for panel in panels:
            built = built.with_panel(_panel(panel))
    return built


def _instances() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("instance")
        .label("gateway")
        .datasource(_SOURCE)
        .query('label_values(up{job="hauberk"}, instance)')
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .hide(VariableHide.DONT_HIDE)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
    )


def _panel(panel: Panel) -> _Built:
    built: _Built
    if panel.kind == "number":
        built = stat.Panel().graph_mode(values.BigValueGraphMode.AREA).height(_HEIGHT // 2)
    elif panel.kind == "heatmap":
        built = (
            heatmap.Panel()
            .calculate(calculate=False)
            .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64))
            .height(_HEIGHT)
        )
    else:
        built = (
            timeseries.Panel().fill_opacity(25 if panel.stacked else 0).show_points(values.VisibilityMode.NEVER).height(_HEIGHT)
        )
        if panel.stacked:
            built = built.stacking(common.StackingConfig().mode(values.StackingMode.NORMAL))
    if isinstance(built, heatmap.Panel):
        built = built.y_axis(heatmap.YAxisConfig().axis_label(panel.axis))
    elif isinstance(built, timeseries.Panel):
        built = built.axis_label(panel.axis)
    built = built.title(panel.title).description(panel.description).datasource(_SOURCE).unit(panel.unit).span(panel.width)
    for number, (legend, query) in enumerate(panel.queries):
        built = built.with_target(_query(panel, number, legend, query))
    return built


def _query(panel: Panel, number: int, legend: str, query: str) -> prometheus.Dataquery:
    shown = prometheus.Dataquery().datasource(_SOURCE).ref_id(chr(ord("A") + number)).expr(query).legend_format(legend)
    return shown.format(PromQueryFormat.HEATMAP if panel.kind == "heatmap" else PromQueryFormat.TIME_SERIES)


def main() -> None:
    """Write them all."""
    OUT.mkdir(exist_ok=True)
    for board in BOARDS:
        (OUT / f"{board.uid}.json").write_text(written(board))


if __name__ == "__main__":
    main()
