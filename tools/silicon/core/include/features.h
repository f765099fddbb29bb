// Stands in for glibc's header of this name, which the host's C++ library asks for its version.
#pragma once
#define __GLIBC_PREREQ(major, minor) 0
