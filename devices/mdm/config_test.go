package mdm

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestASourceIsCompletedWithItsPresets(t *testing.T) {
	secret := secretFile(t, testSecret)
	all := []Config{{Name: "jamf", Type: "jamf", URL: "https://example.jamfcloud.com", ClientID: "x", ClientSecretFile: secret}}
	want := all[0]
	want.OnMissing, want.MaxDeletePercent, want.PartialEvery, want.FullEvery = "noop", new(50), 6*time.Hour, 24*time.Hour
	if err := Check(all); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, all[0]); diff != "" {
		t.Error(diff)
	}
}

func TestASourceThatCannotBeUsedIsRefusedByItsSetting(t *testing.T) {
	secret, loose := secretFile(t, testSecret), secretFile(t, testSecret)
	if err := os.Chmod(loose, 0o604); err != nil {
		t.Fatal(err)
	}
	good := Config{Name: "jamf", Type: "jamf", URL: "https://example.jamfcloud.com", ClientID: "x", ClientSecretFile: secret}
	path := Config{Name: "assets", Type: "file", Path: "/x.csv"}
	for _, tt := range []struct {
		want   string
		change func(c *Config)
	}{
		{`name ""`, func(c *Config) { c.Name = "" }},
		{`name "manual"`, func(c *Config) { c.Name = "manual" }},
		{`name "a b"`, func(c *Config) { c.Name = "a b" }},
		{`type "": want file, intune, jamf`, func(c *Config) { c.Type = "" }},
		{"url is missing", func(c *Config) { c.URL = "" }},
		{"client_secret_file is missing", func(c *Config) { c.ClientSecretFile = "" }},
		{"tenant_id means nothing for type jamf", func(c *Config) { c.TenantID = "x" }},
		{"url: want https, or http to this machine itself", func(c *Config) { c.URL = "http://example.com" }},
		{"url: want https", func(c *Config) { c.URL = "ftp://localhost" }},
		{"url: want https://HOST, without a user or a password", func(c *Config) { c.URL = "https://user:" + testSecret + "@example.com" }},
		{"url: want https://HOST", func(c *Config) { c.URL = "example.com" }},
		{"has mode 0604, others than its owner can use the secret", func(c *Config) { c.ClientSecretFile = loose }},
		{"no such file", func(c *Config) { c.ClientSecretFile += "-not" }},
		{"want one line with the secret", func(c *Config) { c.ClientSecretFile = secretFile(t, "") }},
		{"want one line with the secret", func(c *Config) { c.ClientSecretFile = secretFile(t, "a\nb") }},
		{"it is too long", func(c *Config) { c.ClientSecretFile = secretFile(t, strings.Repeat("x", maxSecret)) }},
		{"ca_file: ", func(c *Config) { c.CAFile = secret }},
		{`on_missing: "remove": want noop or delete`, func(c *Config) { c.OnMissing = "remove" }},
		{"max_delete_percent: 101", func(c *Config) { c.MaxDeletePercent = new(101) }},
		{"max_delete_percent: 0", func(c *Config) { c.MaxDeletePercent = new(0) }},
		{"max_delete_percent: -1", func(c *Config) { c.MaxDeletePercent = new(-1) }},
		{"partial_every: 6s: want at least 1m0s", func(c *Config) { c.PartialEvery = 6 * time.Second }},
		{"full_every: -1h0m0s", func(c *Config) { c.FullEvery = -time.Hour }},
		{`profile: "colour" is not a field`, func(c *Config) { c.Profile = []string{"colour"} }},
		{"want either path or url", func(c *Config) { *c = path; c.Path = "" }},
		{"want either path or url", func(c *Config) { *c = path; c.URL = "https://example.com" }},
		{"go with url, not with path", func(c *Config) { *c = path; c.BearerTokenFile = secret }},
		{"bearer_token_file: ", func(c *Config) { *c = path; c.Path, c.URL, c.BearerTokenFile = "", "https://example.com", loose }},
		{`tenant_id: "../x"`, func(c *Config) {
			*c = Config{Name: "intune", Type: "intune", TenantID: "../x", ClientID: "x", ClientSecretFile: secret}
		}},
	} {
		c := good
		tt.change(&c)
		err := Check([]Config{c})
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), testSecret) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
	}
	if err := Check([]Config{path, path}); err == nil || !strings.Contains(err.Error(), `two sources have the name "assets"`) {
		t.Errorf("got %v", err)
	}
}
