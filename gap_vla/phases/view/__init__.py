"""Looking at labels: one HTML page, a video or a picture per episode, and a page per data set."""

from __future__ import annotations

from gap_vla.phases.view.episode_view import EpisodeView, view_of
from gap_vla.phases.view.page import episode_page, report_page
from gap_vla.phases.view.picture import write_picture
from gap_vla.phases.view.video import write_video

__all__ = ["EpisodeView", "episode_page", "report_page", "view_of", "write_picture", "write_video"]
