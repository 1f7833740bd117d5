// Benchtable reads what `go test -bench` prints and shows each figure that
// has a limit with its limit beside it. The output of go test goes to stderr
// as it comes. It fails where a figure is missing, never because one is over:
// how fast a machine is is not a property of the code alone.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

func main() {
	if err := run(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

// figures are the values of each benchmark and unit, one of each run.
type figures map[string]map[string][]float64

func run(in io.Reader, out, progress io.Writer) error {
	all := figures{}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fmt.Fprintln(progress, lines.Text())
		all.read(lines.Text())
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return table(all, out)
}

// read takes one line: "BenchmarkX-2  1000  1234 ns/op  9.5 x_sshd".
func (f figures) read(line string) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return
	}
	name := strings.TrimPrefix(fields[0], "Benchmark")
	if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of processors
		name = name[:i]
	}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return
		}
		if f[name] == nil {
			f[name] = map[string][]float64{}
		}
		f[name][fields[i+1]] = append(f[name][fields[i+1]], v)
	}
}

// least of a benchmark's runs: what else the machine does only adds to a
// time. It is false where it never ran.
func (f figures) least(name, unit string) (float64, bool) {
	if len(f[name][unit]) == 0 {
		return 0, false
	}
	return slices.Min(f[name][unit]), true
}

// median of a benchmark's runs, for figures that are differences or ratios.
func (f figures) median(name, unit string) (float64, bool) {
	v := slices.Sorted(slices.Values(f[name][unit]))
	if len(v) == 0 {
		return 0, false
	}
	return v[len(v)/2], true
}

func table(all figures, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nwhat\tfigure\tlimit\t")
	missing := 0
	for _, l := range limits {
		value, ok := l.figure(all)
		if !ok {
			missing++
			fmt.Fprintf(w, "%s\tmissing\t%s\tMISSING\n", l.what, l.limit())
			continue
		}
		verdict := "ok"
		if l.over(value) {
			verdict = "OVER"
		}
		fmt.Fprintf(w, "%s\t%.5g %s\t%s\t%s\n", l.what, value, l.unit, l.limit(), verdict)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if missing > 0 {
		return fmt.Errorf("%d figures are missing", missing)
	}
	return nil
}
