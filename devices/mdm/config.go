// Package mdm takes over what device management systems know of machines:
// Jamf Pro, Microsoft Intune, and files in CSV or JSON. A source gives pages
// of records, of which one is in memory; devices.Inventory takes them over.
package mdm

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"devicetrust/resource"
)

// Types of source; also the origin of the devices they register.
const (
	typeJamf   = "jamf"
	typeIntune = "intune"
	typeFile   = "file"
)

// What happens to devices that a source no longer has.
const (
	onMissingNoop   = "noop"
	onMissingDelete = "delete"
)

// Config is one source, as docs/mdm.md describes it.
type Config struct {
	Name string `yaml:"name"`
	Type string `yaml:"type"`

	URL              string `yaml:"url"`
	LoginURL         string `yaml:"login_url"` // Intune
	TenantID         string `yaml:"tenant_id"` // Intune
	ClientID         string `yaml:"client_id"`
	ClientSecretFile string `yaml:"client_secret_file"`
	// Filter is RSQL for Jamf Pro, OData for Intune.
	Filter          string `yaml:"filter"`
	Path            string `yaml:"path"`              // file
	BearerTokenFile string `yaml:"bearer_token_file"` // file
	// CAFile is PEM; the server's certificate must be of one of these, in
	// place of the system's.
	CAFile string `yaml:"ca_file"`

	// Profile names the fields that are taken over; empty is all.
	Profile          []string      `yaml:"profile"`
	OnMissing        string        `yaml:"on_missing"`
	MaxDeletePercent *int          `yaml:"max_delete_percent"` // 0 is not left out
	PartialEvery     time.Duration `yaml:"partial_every"`
	FullEvery        time.Duration `yaml:"full_every"`
}

// kind is what a type of source wants to be told.
type kind struct {
	required, optional []string
	open               func(Config, Clock) (Source, error)
}

func kinds() map[string]kind {
	return map[string]kind{
		typeJamf: {
			required: []string{"url", "client_id", "client_secret_file"},
			optional: []string{"filter", "ca_file"},
			open:     openJamf,
		},
		typeIntune: {
			required: []string{"tenant_id", "client_id", "client_secret_file"},
			optional: []string{"url", "login_url", "filter", "ca_file"},
			open:     openIntune,
		},
		typeFile: {
			optional: []string{"path", "url", "bearer_token_file", "ca_file"},
			open:     openFile,
		},
	}
}

// settings are those that not every type has.
func (c Config) settings() map[string]string {
	return map[string]string{
		"url": c.URL, "login_url": c.LoginURL, "tenant_id": c.TenantID, "client_id": c.ClientID,
		"client_secret_file": c.ClientSecretFile, "filter": c.Filter, "path": c.Path,
		"bearer_token_file": c.BearerTokenFile, "ca_file": c.CAFile,
	}
}

var (
	namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	// reserved are the sources of devices that no system registered.
	reserved = []string{"manual", "self"}
)

// Check completes all and refuses what cannot be used: the error names the
// source and the setting. Files are opened, no server is asked.
func Check(all []Config) error {
	seen := map[string]bool{}
	for n := range all {
		c := &all[n]
		if len(c.Name) > maxName || !namePattern.MatchString(c.Name) || slices.Contains(reserved, c.Name) {
			return fmt.Errorf("mdm: source %d: name %.64q: want a-z, 0-9 and . _ -, at most %d, and not %s",
				n+1, c.Name, maxName, strings.Join(reserved, " or "))
		}
		if seen[c.Name] {
			return fmt.Errorf("mdm: two sources have the name %q", c.Name)
		}
		seen[c.Name] = true
		if err := c.complete(); err != nil {
			return fmt.Errorf("mdm: source %q: %w", c.Name, err)
		}
		if _, err := kinds()[c.Type].open(*c, Clock{}); err != nil {
			return fmt.Errorf("mdm: source %q: %w", c.Name, err)
		}
	}
	return nil
}

func (c *Config) complete() error {
	k, known := kinds()[c.Type]
	if !known {
		return fmt.Errorf("type %.64q: want %s", c.Type, strings.Join(slices.Sorted(maps.Keys(kinds())), ", "))
	}
	settings := c.settings()
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		required := slices.Contains(k.required, name)
		switch given := settings[name] != ""; {
		case required && !given:
			return fmt.Errorf("%s is missing", name)
		case given && !required && !slices.Contains(k.optional, name):
			return fmt.Errorf("%s means nothing for type %s", name, c.Type)
		}
	}
	for _, name := range c.Profile {
		if _, known := profileFields[name]; !known {
			return fmt.Errorf("profile: %.64q is not a field: want some of %s", name, strings.Join(slices.Sorted(maps.Keys(profileFields)), ", "))
		}
	}
	return c.completePolicy()
}

func (c *Config) completePolicy() error {
	if c.OnMissing == "" {
		c.OnMissing = onMissingNoop
	}
	if c.OnMissing != onMissingNoop && c.OnMissing != onMissingDelete {
		return fmt.Errorf("on_missing: %.64q: want %s or %s", c.OnMissing, onMissingNoop, onMissingDelete)
	}
	if c.MaxDeletePercent == nil {
		c.MaxDeletePercent = new(defaultMaxDelete)
	}
	if percent := *c.MaxDeletePercent; percent < 1 || percent > 100 {
		return fmt.Errorf("max_delete_percent: %d: want 1 to 100", percent)
	}
	for _, every := range []struct {
		name   string
		value  *time.Duration
		preset time.Duration
	}{{"partial_every", &c.PartialEvery, defaultPartial}, {"full_every", &c.FullEvery, defaultFull}} {
		if *every.value == 0 {
			*every.value = every.preset
		}
		if *every.value < minEvery {
			return fmt.Errorf("%s: %v: want at least %v", every.name, *every.value, minEvery)
		}
	}
	return nil
}

// profileFields are the texts of a profile by the names that they have in
// YAML, JSON and CSV; os_usernames is a list and stands apart.
var profileFields = map[string]func(*resource.DeviceProfile) *string{
	"external_id":         func(p *resource.DeviceProfile) *string { return &p.ExternalID },
	"os_id":               func(p *resource.DeviceProfile) *string { return &p.OSID },
	"os_version":          func(p *resource.DeviceProfile) *string { return &p.OSVersion },
	"os_build":            func(p *resource.DeviceProfile) *string { return &p.OSBuild },
	"kernel_version":      func(p *resource.DeviceProfile) *string { return &p.KernelVersion },
	"hostname":            func(p *resource.DeviceProfile) *string { return &p.Hostname },
	"model_identifier":    func(p *resource.DeviceProfile) *string { return &p.ModelIdentifier },
	"serial_number":       func(p *resource.DeviceProfile) *string { return &p.SerialNumber },
	"jamf_binary_version": func(p *resource.DeviceProfile) *string { return &p.JamfBinaryVersion },
	"os_usernames":        nil,
}

// takenOver is p without the fields that are not to be taken over. What says
// which record it is, and of when, always is.
func (c Config) takenOver(p resource.DeviceProfile) resource.DeviceProfile {
	if len(c.Profile) == 0 {
		return p
	}
	kept := resource.DeviceProfile{ExternalID: p.ExternalID, UpdateTime: p.UpdateTime}
	for _, name := range c.Profile {
		if field := profileFields[name]; field != nil {
			*field(&kept) = *field(&p)
		} else {
			kept.OSUsernames = p.OSUsernames
		}
	}
	return kept
}
