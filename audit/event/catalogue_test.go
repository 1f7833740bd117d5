package event

import "testing"

func TestATypeIsFoundByItsTitle(t *testing.T) {
	for text, want := range map[string]Type{
		"Device Enroll Token Created": DeviceTokenCreate, "device enrolled": DeviceEnroll,
		"device.enroll": DeviceEnroll, "no.such": "no.such", "": "",
	} {
		if got := Named(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
	titles := map[string]bool{}
	for _, e := range catalogue {
		if e.title == "" || titles[e.title] {
			t.Errorf("title %q is none, or there twice", e.title)
		}
		titles[e.title] = true
	}
}
