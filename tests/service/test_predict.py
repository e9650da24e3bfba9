"""POST /predict over HTTP: right answers, abstention, and every way to be refused."""

from __future__ import annotations

import concurrent.futures
import json
import re
import socket
import time
from typing import Any

import httpx
import numpy as np
import pytest

from models.bundle import Bundle
from tests_service import TARGET, Server, triggered
