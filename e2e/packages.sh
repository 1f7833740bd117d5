#!/bin/sh
# packages.sh COMMAND:PACKAGE…
#
# Installs the Debian packages whose command is missing (or, where COMMAND is
# a path, whose file is); without the right to do so it names them and fails.
# No service is started, and PostgreSQL gets no cluster of its own: tests start
# what they need themselves, in temporary directories.
set -eu

# Debian keeps sshd out of an ordinary person's PATH.
PATH=$PATH:/usr/sbin:/sbin

missing=
for pair; do
	wanted=${pair%%:*}
	case $wanted in
	/*) for file in $wanted; do [ -e "$file" ] && continue 2; done ;;
	*) command -v "$wanted" >/dev/null 2>&1 && continue ;;
	esac
	missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null 2>&1; then
	echo "missing, and there is no apt-get to install it: the Debian packages$missing" >&2
	exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
	as_root() { "$@"; }
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
	as_root() { sudo "$@"; }
elif command -v sudo >/dev/null 2>&1 && [ -t 0 ]; then
	as_root() { sudo "$@"; }
else
	echo "missing; please install as root:  apt-get install$missing" >&2
	exit 1
fi

echo "installing$missing" >&2

# deb-systemd-invoke and invoke-rc.d ask this file; 101 says "do not".
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
	trap 'as_root rm -f $policy' EXIT
	printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
	as_root chmod 0755 $policy
fi
clusters=/etc/postgresql-common/createcluster.conf
case $missing in
*postgresql*)
	if [ ! -e $clusters ]; then
		as_root mkdir -p "${clusters%/*}"
		echo 'create_main_cluster = false' | as_root tee $clusters >/dev/null
	fi
	;;
esac

as_root apt-get update -qq
# shellcheck disable=SC2086 # one word a package
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	-o Dpkg::Options::=--force-confold $missing >/dev/null
