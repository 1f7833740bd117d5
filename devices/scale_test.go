package devices

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"devicetrust/resource"
	"devicetrust/store"
	"devicetrust/store/storetest"
)

// fleet gives documents of n machines from the first-th on, whose tags are in
// no order, as those of real ones.
func fleet(first, n int) []resource.Device {
	all := make([]resource.Device, n)
	for i := range all {
		all[i].Header = resource.NewHeader(resource.KindDevice, "")
		all[i].Spec.OSType, all[i].Spec.AssetTag = osLinux, tagOf(first+i)
	}
	return all
}

// tagOf is another one for each n: the factor is odd.
func tagOf(n int) string { return fmt.Sprintf("PF%08X", uint32(n)*2654435761) }

func BenchmarkCreateDevices(b *testing.B) {
	w := newWorld(b, storetest.Open(b))
	const many = 20_000
	made := 0
	for b.Loop() {
		if _, err := w.CreateAll(b.Context(), admin, fleet(made, many), Bulk{}); err != nil {
			b.Fatal(err)
		}
		made += many
	}
	b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "devices/s")
}

// populate puts n devices into the store, of which every tenth is enrolled and
// every ten-thousandth frozen; the record of it is not what is measured.
func (w *world) populate(b *testing.B, n int) {
	b.Helper()
	const many = 50_000
	for first := 0; first < n; first += many {
		var rows [][]any
		for i, document := range fleet(first, min(many, n-first)) {
			d, err := w.proposed(document)
			if err != nil {
				b.Fatal(err)
			}
			if err := w.complete(&d); err != nil {
				b.Fatal(err)
			}
			if i%10 == 0 {
				d.Spec.EnrollStatus, d.Spec.Owner = resource.Enrolled, fmt.Sprintf("user-%d", i)
				d.Spec.Credential = &resource.Credential{ID: fmt.Sprintf("c%d", first+i), TPMEKKeyDigest: fmt.Sprintf("e%d", first+i), DeviceAttestationType: "tpm_ekcert"}
				d.Spec.LastSeenTime = w.now()
			}
			if i%10_000 == 0 {
				d.Spec.Frozen = &resource.DeviceFreeze{Time: w.now(), Reason: "its TPM went back"}
			}
			row, err := newRow(&d)
			if err != nil {
				b.Fatal(err)
			}
			rows = append(rows, row)
		}
		slices.SortFunc(rows, byTag)
		if err := w.db.Write(b.Context(), func(tx *store.Tx) error { return insertRows(tx, rows) }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMillion is what administrators and logins do where a million
// devices are registered. They are made once for all of it.
func BenchmarkMillion(b *testing.B) {
	const million = 1_000_000
	w := newWorld(b, storetest.Open(b))
	w.populate(b, million)
	must := func(b *testing.B, err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	page := func(f Filter) func(*testing.B) {
		return func(b *testing.B) {
			for b.Loop() {
				page, _, err := w.ListPage(b.Context(), f, Page{})
				must(b, err)
				if len(page) == 0 {
					b.Fatal("nothing is listed")
				}
			}
		}
	}
	for name, f := range map[string]Filter{
		"": {}, "Enrolled": {EnrollStatus: resource.Enrolled}, "Prefix": {AssetTagPrefix: "PF8"},
		"OwnerOfSource": {Owner: "user-70", Source: "manual"}, "FrozenOfSource": {Frozen: true, Source: "manual"},
	} {
		b.Run("FirstPage"+name, page(f))
	}
	b.Run("FindByTag", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			_, err := w.Find(b.Context(), Ref{AssetTag: tagOf(n * 7919 % million)})
			must(b, err)
		}
	})
	b.Run("FindByID", func(b *testing.B) {
		some, _, err := w.ListPage(b.Context(), Filter{AssetTagPrefix: "PF7"}, Page{Size: MaxPage})
		must(b, err)
		for n := 0; b.Loop(); n++ {
			_, err := w.Find(b.Context(), Ref{ID: some[n*7919%len(some)].Metadata.Name})
			must(b, err)
		}
	})
	b.Run("Count", func(b *testing.B) {
		for b.Loop() {
			must(b, w.db.Read(b.Context(), func(tx *store.Tx) error {
				_, _, err := w.Count(tx)
				return err
			}))
		}
	})
	b.Run("Login", func(b *testing.B) { benchmarkLogin(b, w) })
}

// benchmarkLogin measures the ceremony of a login, over the same one where a
// thousand devices are registered. They take turns, so that a busy moment of
// the machine falls on both; x_thousand is the quotient of the medians.
func benchmarkLogin(b *testing.B, million *world) {
	thousand := newWorld(b, storetest.Open(b))
	thousand.populate(b, 1000)
	worlds := []*world{thousand, million}
	took := make([][]time.Duration, len(worlds))
	machines := []*machine{newMachine(b), newMachine(b)}
	for i, w := range worlds {
		machines[i].data.AssetTag = fmt.Sprintf("BENCH%d", time.Now().UnixNano()) // the function runs several times
		w.enroll(b, machines[i], alice, Trust{})
	}
	round := func() {
		for i, w := range worlds {
			start := time.Now()
			if _, err := w.loginWith(b, machines[i], login{}); err != nil {
				b.Fatal(err)
			}
			took[i] = append(took[i], time.Since(start))
		}
	}
	for b.Loop() {
		round()
	}
	for len(took[0]) < 25 {
		round()
	}
	middle := func(d []time.Duration) float64 { return float64(slices.Sorted(slices.Values(d))[len(d)/2]) }
	b.ReportMetric(middle(took[1])/middle(took[0]), "x_thousand")
}
