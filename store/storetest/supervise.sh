# Arguments: the folder to own, the folder of PostgreSQL's programs.
# Standard input ends when the test process does.
dir=$1 bin=$2
trap 'rm -rf "$dir"' EXIT
trap '' HUP INT

"$bin/initdb" --pgdata="$dir/data" --username=dt --auth=trust --encoding=UTF8 \
	--locale=C --no-sync --no-instructions >"$dir/log" 2>&1 </dev/null || {
	echo failed
	read -r _ # the log is being read
	exit 1
}

# Nothing here outlives a crash, so nothing is made to.
"$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= \
	-c fsync=off -c synchronous_commit=off -c full_page_writes=off \
	-c shared_buffers=32MB -c max_connections=200 -c max_wal_size=256MB \
	-c wal_level=minimal -c max_wal_senders=0 \
	>>"$dir/log" 2>&1 </dev/null &
server=$!
echo ready

read -r _
kill -QUIT "$server" # immediate shutdown: no checkpoint, the folder goes anyway
wait "$server"
