package devices

import (
	"fmt"
	"testing"

	"devicetrust/resource"
	"devicetrust/store/storetest"
)

// fleet gives documents of n machines from the first-th on.
func fleet(first, n int) []resource.Device {
	all := make([]resource.Device, n)
	for i := range all {
		all[i].Header = resource.NewHeader(resource.KindDevice, "")
		all[i].Spec.OSType, all[i].Spec.AssetTag = "linux", fmt.Sprintf("PF%08X", uint32(first+i)*2654435761)
	}
	return all
}

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
