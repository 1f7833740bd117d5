package client

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"time"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/identity"
)

// Profile is what this machine knows of one cluster: whom to trust there,
// and, while somebody is logged in, who. Keys and certificates are beside it
// (Credentials).
type Profile struct {
	// Proxy is the dtauthd's HOST:PORT.
	Proxy string
	// Cluster and the rest are empty until the first login.
	Cluster string
	// User is empty while nobody is logged in.
	User string
	// Device is how the device ceremony of the last login ended.
	Device DeviceOutcome
	// RenewableUntil is until when Renew can lengthen the login; zero where it
	// cannot.
	RenewableUntil time.Time
	// Trust is whom to believe to be the dtauthd. It outlives a logout, as
	// known_hosts does.
	Trust Trust

	// replaced are earlier logins of User's, whose keys are gone and whose
	// sessions may go on; a logout ends them too.
	replaced []replacedLogin
	home     *Home
}

// replacedLogin is a login that a later one of the same person took the place
// of.
type replacedLogin struct {
	// Serial of its SSH certificate.
	Serial uint64 `json:"serial"`
	// ValidUntil is when that expires.
	ValidUntil time.Time `json:"valid_until"`
}

// DeviceOutcome is how a device ceremony ended. Whether the login has a
// trusted device, only its certificate tells.
type DeviceOutcome struct {
	// Reason is why the device was not authenticated, for a person; empty
	// where it was.
	Reason string `json:"reason,omitempty"`
	// Hint is what to do about it.
	Hint string `json:"hint,omitempty"`
	// Warnings are what the person should know of a device that was.
	Warnings []string `json:"warnings,omitempty"`
}

// profileNamePattern is what fileName makes of an address.
var profileNamePattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`)

// profileVersion is raised when the file changes its meaning; others are
// refused.
const profileVersion = 1

// profileFile is a Profile as stored.
type profileFile struct {
	Version int           `json:"version"`
	Proxy   string        `json:"proxy"`
	Cluster string        `json:"cluster,omitempty"`
	User    string        `json:"user,omitempty"`
	Device  DeviceOutcome `json:"device,omitzero"`
	// RenewableUntil and Replaced are of User's login.
	RenewableUntil time.Time       `json:"renewable_until,omitzero"`
	Replaced       []replacedLogin `json:"replaced,omitempty"`
	TrustSystem    bool            `json:"trust_system,omitempty"`
	Authorities    string          `json:"authorities,omitempty"` // PEM
	// Unused is in the files of older programs.
	Unused string `json:"device_trust_mode,omitempty"`
}

// ErrNotLoggedIn is why there is no profile to work with.
var ErrNotLoggedIn = api.Refuse(connect.CodeUnauthenticated, "not logged in").
	WithHint("Log in with: dtsh login --proxy=HOST:PORT --user=USER")

// LoadProfile gives the profile of the person's cluster from the folder at
// home (DTSH_HOME): that of proxy where one is given, else the
// current one. Where nobody is logged in there it returns ErrNotLoggedIn.
func LoadProfile(home, proxy string) (*Profile, error) {
	h, err := OpenHome(home)
	if err != nil {
		return nil, err
	}
	p, err := h.Profile(proxy)
	if err != nil {
		return nil, err
	}
	if p.User == "" {
		return nil, ErrNotLoggedIn
	}
	return p, nil
}

// Home is the folder that p is kept in.
func (p *Profile) Home() *Home { return p.home }

// Profile gives the profile of proxy (as ParseProxy reads it), or of the current cluster where proxy
// is empty. One that was never stored is new: it has only its Proxy, and
// trusts nobody. Without proxy and without a current cluster it returns
// ErrNotLoggedIn.
func (h *Home) Profile(proxy string) (*Profile, error) {
	if proxy != "" {
		var err error
		if proxy, err = ParseProxy(proxy); err != nil {
			return nil, err
		}
	}
	name, err := h.profileName(proxy)
	if err != nil {
		return nil, err
	}
	p, err := h.readProfile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if proxy == "" {
			return nil, ErrNotLoggedIn
		}
		return &Profile{Proxy: proxy, home: h}, nil
	}
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		return nil, unreadable(h.path("profiles", name+".json"), pe)
	}
	if err == nil && proxy != "" && p.Proxy != proxy {
		err = notThat(p)
	}
	if err != nil {
		return nil, api.Refuse(connect.CodeFailedPrecondition, "cannot use the profile %q: %v", h.path("profiles", name+".json"), err).
			WithHint("Remove that file and log in again.")
	}
	return p, nil
}

func notThat(p *Profile) error { return fmt.Errorf("it is the profile of %q", p.Proxy) }

// readProfile reads the profile that is stored under name.
func (h *Home) readProfile(name string) (*Profile, error) {
	data, err := h.read("profiles", name+".json")
	if err != nil {
		return nil, err
	}
	p, err := parseProfile(data)
	if err != nil {
		return nil, err
	}
	if fileName(p.Proxy) != name {
		return nil, notThat(p)
	}
	p.home = h
	return p, nil
}

func (h *Home) profileName(proxy string) (string, error) {
	if proxy != "" {
		return fileName(proxy), nil
	}
	data, err := h.read("current-profile")
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNotLoggedIn
	}
	if err != nil {
		return "", unreadable(h.path("current-profile"), err)
	}
	name := strings.TrimSpace(string(data))
	if !profileNamePattern.MatchString(name) {
		return "", api.Refuse(connect.CodeFailedPrecondition, "cannot use %q: %.64q is not the name of a profile", h.path("current-profile"), name).
			WithHint("Remove that file and log in again.")
	}
	return name, nil
}

func parseProfile(data []byte) (*Profile, error) {
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, err
	}
	if version.Version != profileVersion {
		return nil, fmt.Errorf("version %d is not known here, want %d", version.Version, profileVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var f profileFile
	if err := dec.Decode(&f); err != nil {
		return nil, err
	}
	if proxy, err := ParseProxy(f.Proxy); err != nil || proxy != f.Proxy {
		return nil, fmt.Errorf("%.256q is not a HOST:PORT", f.Proxy)
	}
	if len(f.Replaced) > maxReplaced {
		return nil, fmt.Errorf("it remembers %d earlier logins, more than %d", len(f.Replaced), maxReplaced)
	}
	if f.User != "" {
		if err := checkFileUser(f.User); err != nil {
			return nil, err
		}
	}
	roots, err := parseCertificates([]byte(f.Authorities))
	if err != nil {
		return nil, err
	}
	return &Profile{
		Proxy: f.Proxy, Cluster: f.Cluster, User: f.User,
		Device: f.Device, RenewableUntil: f.RenewableUntil, replaced: f.Replaced,
		Trust: Trust{Roots: roots, System: f.TrustSystem},
	}, nil
}

// CheckUser refuses a name that nobody can log in by.
func CheckUser(user string) error {
	if err := checkFileUser(user); err != nil {
		return api.Refuse(connect.CodeInvalidArgument, "cannot log in: %v", err)
	}
	return nil
}

// checkFileUser: the user's name is the name of the key file, which must not
// be that of another file beside it.
func checkFileUser(user string) error {
	if err := identity.CheckUser(user); err != nil {
		return err
	}
	if user == knownHostsFile {
		return fmt.Errorf("the name %q is taken by a file of the profile", user)
	}
	return nil
}

// save stores p without making it the current one.
func (p *Profile) save() error {
	f := profileFile{
		Version: profileVersion,
		Proxy:   p.Proxy, Cluster: p.Cluster, User: p.User,
		Device: p.Device, RenewableUntil: p.RenewableUntil, Replaced: p.replaced,
		TrustSystem: p.Trust.System,
		Authorities: string(p.Trust.pem()),
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return p.home.write(append(data, '\n'), "profiles", fileName(p.Proxy)+".json")
}

// makeCurrent makes p what commands without --proxy use.
func (p *Profile) makeCurrent() error {
	return p.home.write([]byte(fileName(p.Proxy)+"\n"), "current-profile")
}

// KeepTrust stores whom p trusts, so that the next command need not be told.
func (p *Profile) KeepTrust() error {
	if err := p.save(); err != nil {
		return err
	}
	if _, err := p.home.read("current-profile"); errors.Is(err, fs.ErrNotExist) {
		return p.makeCurrent()
	}
	return nil
}

func (t Trust) pem() []byte {
	var b bytes.Buffer
	for _, c := range t.Roots {
		// Writing to a buffer does not fail.
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
	}
	return b.Bytes()
}
