"""pprof profiles: wire format, merge, top. Knows nothing of Runs or nodes.

::

    read, write            a whole profile in memory, for tables and merging
    scan.scan              a file of any size: is it whole, and what is it of
    top, format_value      the functions with the most
    merging                several profiles into one; process does that without holding up its own process
"""

from nodeobs.pprof.decode import read
from nodeobs.pprof.encode import write
from nodeobs.pprof.profile import Profile, ValueType
from nodeobs.pprof.ranking import TopRow, TopTable, top
from nodeobs.pprof.units import format_value

__all__ = ["Profile", "TopRow", "TopTable", "ValueType", "format_value", "read", "top", "write"]
