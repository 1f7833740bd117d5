package e2e

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// BenchmarkSFTP moves a large file and many small ones with a stock sftp.
func BenchmarkSFTP(b *testing.B) {
	p := startPair(b)
	desk, err := makeDesk(p.login)
	must(b, err)
	defer os.RemoveAll(desk)
	local := b.TempDir()

	const large, small = 1 << 30, 10_000
	must(b, os.WriteFile(filepath.Join(local, "large"), nil, 0o600))
	must(b, os.Truncate(filepath.Join(local, "large"), large))
	must(b, os.Mkdir(filepath.Join(local, "small"), 0o700))
	for i := range small {
		must(b, os.WriteFile(filepath.Join(local, "small", fmt.Sprint(i)), make([]byte, 100), 0o600))
	}
	batch := func(name, command string) string {
		path := filepath.Join(local, name)
		must(b, os.WriteFile(path, fmt.Appendf(nil, "lcd %s\ncd %s\n%s\n", local, desk, command), 0o600))
		return path
	}
	for _, work := range []struct {
		name, command string
		size          int
	}{
		{"put", "put large", large},
		{"get", "get large got", large},
		{"putsmall", "put -r small", small * 100},
		{"getsmall", "get -r small gotsmall", small * 100},
	} {
		file := batch("batch-"+work.name, work.command)
		b.Run(work.name, func(b *testing.B) {
			p.beside(b, work.size, func(address string) { p.sftp(b, address, io.Discard, "-q", "-b", file) })
		})
	}
}
