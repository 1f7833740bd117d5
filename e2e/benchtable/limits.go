package main

import (
	"fmt"
	"slices"
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
	return fmt.Sprintf("%s %.5g %s", sign, l.bound, l.unit)
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
	{what: "devices: register 20,000 at once", unit: "devices/s", bound: 20_000, least: true,
		figure: most("CreateDevices", "devices/s")},
	{what: "devices: first page of a list, a million registered", unit: "ms", bound: 50, figure: slowest("Million/FirstPage", "ns/op", 1e6)},
	{what: "devices: find one by tag or ID, a million registered", unit: "ms", bound: 1, figure: slowest("Million/Find", "ns/op", 1e6)},
	{what: "devices: count, a million registered", unit: "ms", bound: 20, figure: slowest("Million/Count", "ns/op", 1e6)},
	{what: "devices: ceremony of a login, a million registered, over a thousand", unit: "×", bound: 1.1,
		figure: median("Million/Login", "x_thousand")},
	{what: "devices/mdm: memory of a full sync of 100,000 devices", unit: "MB", bound: 200, figure: median("Sync100k", "peak-MB")},
	{what: "policy: decide, 20 roles", unit: "µs", bound: 5, figure: slowest("Decide/", "ns/op", 1e3)},
	{what: "policy: decide with 100,000 serials revoked, over none", unit: "×", bound: 1.1, figure: median("DecideRevoked", "x_none")},
	{what: "identity/krl: a list of 100,000 scattered serials", unit: "MB", bound: 2, figure: slowest("KRL/", "bytes", 1e6)},
	{what: "dtsh login with the device ceremony, over one without", unit: "ms", bound: 60,
		figure: median("LoginWithDevice", "extra-ms")},
	{what: "dtsh login with two keys certified in the TPM, over one with software keys", unit: "ms", bound: 10,
		figure: median("LoginWithDevice", "keys-ms")},
	{what: "ssh by dtsh agent with a key in the TPM, over one with a software key", unit: "ms", bound: 5,
		figure: median("AgentLogin", "extra-ms")},
	{what: "dtsh agent: software key, 16 clients at once", unit: "sign/s", bound: 500, least: true,
		figure: most("AgentSign/software", "sign/s")},
	// A chip keeps the agent waiting; swtpm is as fast as the agent, its clients
	// and what verifies the signatures, which share the processors with it.
	{what: "dtsh agent: key in the TPM, 16 clients at once, over the bare TPM", unit: "×", bound: 0.5, least: true,
		figure: most("AgentSign/tpm", "x_bare")},
	{what: "dtsh --help", unit: "ms", bound: 30, figure: median("Start/help", "median-ms")},
	{what: "dtsh status, keys in the TPM", unit: "ms", bound: 30, figure: median("Start/status", "median-ms")},
	{what: "dtnoded: connect, certificate, exec true as another user, over stock sshd", unit: "×", bound: 12, least: true,
		figure: median("Login/One", "x_sshd")},
	{what: "dtnoded: the same, 8 at once", unit: "×", bound: 9, least: true, figure: median("Login/Eight", "x_sshd")},
	{what: "dtnoded: processor time of the server for one, sshd's over ours", unit: "×", bound: 8, least: true,
		figure: median("Login/One", "x_sshd_cpu")},
	{what: "dtnoded: a login with stock ssh, over stock sshd", unit: "×", bound: 6, least: true, figure: median("StockLogin/One", "x_sshd")},
	{what: "dtnoded: the same with stock ssh, 8 at once", unit: "×", bound: 2.5, least: true, figure: median("StockLogin/Eight", "x_sshd")},
	{what: "dtnoded: bulk up, stock ssh, AES-GCM, over stock sshd", unit: "×", bound: 1, least: true, figure: median("Bulk/aes128/up", "x_sshd")},
	{what: "dtnoded: bulk down, stock ssh, AES-GCM, over stock sshd", unit: "×", bound: 1, least: true, figure: median("Bulk/aes128/down", "x_sshd")},
	{what: "dtnoded: bulk up, stock ssh, ChaCha20, over stock sshd", unit: "×", bound: 1, least: true, figure: median("Bulk/chacha20/up", "x_sshd")},
	{what: "dtnoded: bulk down, stock ssh, ChaCha20, over stock sshd", unit: "×", bound: 1, least: true, figure: median("Bulk/chacha20/down", "x_sshd")},
	{what: "dtnoded: sftp put 1 GiB, over stock sshd", unit: "×", bound: 1, least: true, figure: median("SFTP/put", "x_sshd")},
	{what: "dtnoded: sftp get 1 GiB, over stock sshd", unit: "×", bound: 1, least: true, figure: median("SFTP/get", "x_sshd")},
	{what: "dtnoded: sftp put 10,000 small files, over stock sshd", unit: "×", bound: 1, least: true, figure: median("SFTP/putsmall", "x_sshd")},
	{what: "dtnoded: sftp get 10,000 small files, over stock sshd", unit: "×", bound: 1, least: true, figure: median("SFTP/getsmall", "x_sshd")},
	{what: "dtnoded: memory of an idle connection, times less than stock sshd", unit: "×", bound: 20, least: true, figure: median("Idle", "times_less")},
	{what: "dtnoded sshd principals: one answer, as a process", unit: "ms", bound: 6, figure: median("Helper/Small", "median-ms")},
	{what: "dtnoded sshd principals: the same, 10,000 roles and locks", unit: "ms", bound: 20, figure: median("Helper/Large", "median-ms")},
	{what: "stock sshd: a login with stock ssh and the helper, over one without", unit: "×", bound: 1.15, figure: median("HelperLogin", "x_without")},
	{what: "dtnoded: login with 5,000 idle connections, over an empty server", unit: "×", bound: 2, figure: median("ManyIdle", "x_empty")},
	{what: "lock: refused and cut by 99 of 100 servers, 1,000 follow", unit: "ms", bound: 250, figure: median("FleetLock/SQLite", "p99-ms")},
	{what: "the same with PostgreSQL and two dtauthd", unit: "ms", bound: 1000, figure: median("FleetLock/PostgreSQL", "p99-ms")},
	{what: "dtauthd: processor time of a node's restart, 10,000 roles and locks", unit: "ms", bound: 5, figure: median("FleetRestart/current", "cpu-ms")},
	{what: "the same of a node that has missed a lock", unit: "ms", bound: 5, figure: median("FleetRestart/behind", "cpu-ms")},
}

func median(name, unit string) func(figures) (float64, bool) {
	return func(f figures) (float64, bool) { return f.median(name, unit) }
}

// most of a benchmark's runs, for a rate: what least is for a time.
func most(name, unit string) func(figures) (float64, bool) {
	return func(f figures) (float64, bool) {
		v := f[name][unit]
		if len(v) == 0 {
			return 0, false
		}
		return slices.Max(v), true
	}
}

// slowest, or largest, of the benchmarks whose name has the prefix, each at its
// best.
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
