package main

import (
	"fmt"
	"strings"
)

// limit is what a figure may be at most, or must be at least.
type limit struct {
	what   string
	unit   string
	bound  float64
	least  bool
	figure func(figures) (float64, bool)
}

func (l limit) limit() string {
	sign := "≤"
	if l.least {
		sign = "≥"
	}
	return fmt.Sprintf("%s %.3g %s", sign, l.bound, l.unit)
}

func (l limit) over(v float64) bool {
	if l.least {
		return v < l.bound
	}
	return v > l.bound
}

var limits = []limit{
	{what: "ca: issue an SSH user certificate, over the bare Ed25519 certificate signature",
		unit: "×", bound: 1.5, figure: ratio("IssueSSH", "SignBare")},
	{what: "devices: verify a login quote", unit: "ms", bound: 0.5, figure: slowest("VerifyLoginQuote", "ns/op", 1e6)},
	{what: "policy: decide, 20 roles", unit: "µs", bound: 5, figure: slowest("Decide/", "ns/op", 1e3)},
	{what: "dtsh login with the device ceremony, over one without", unit: "ms", bound: 60,
		figure: median("LoginWithDevice", "extra-ms")},
	{what: "dtnoded: connect, certificate, exec true as another user, over stock sshd", unit: "×", bound: 8, least: true,
		figure: median("Login", "x_sshd")},
}

func median(name, unit string) func(figures) (float64, bool) {
	return func(f figures) (float64, bool) { return f.median(name, unit) }
}

// slowest of the benchmarks whose name has the prefix, each at its best.
func slowest(prefix, unit string, divisor float64) func(figures) (float64, bool) {
	return func(f figures) (most float64, found bool) {
		for name := range f {
			if v, ok := f.least(name, unit); ok && strings.HasPrefix(name, prefix) {
				most, found = max(most, v/divisor), true
			}
		}
		return most, found
	}
}

// ratio of two benchmarks' times, measured in the same run.
func ratio(a, b string) func(figures) (float64, bool) {
	return func(f figures) (float64, bool) {
		x, xok := f.least(a, "ns/op")
		y, yok := f.least(b, "ns/op")
		return x / y, xok && yok && y > 0
	}
}
