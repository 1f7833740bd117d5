package client

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"connectrpc.com/connect"

	"devicetrust/api"
	"devicetrust/policy"
)

// banners takes what a node says before authentication: a denial is kept, the
// rest is shown as it comes.
type banners struct {
	login string
	show  io.Writer
	left  int // bytes that may still be shown
	// denial is the reason that the node gave; empty where it gave none.
	denial string
	// hint is the line that followed.
	hint string
}

// denialPrefix begins a denial of dtnoded's:
// "access denied to LOGIN connecting to HOST:PORT: REASON".
const denialPrefix = "access denied to "

// take is an ssh.BannerCallback.
func (b *banners) take(message string) error {
	if len(message) > maxBanner {
		message = message[:maxBanner]
	}
	message = strippedLines(message)
	if reason, hint, ok := parseDenial(message, b.login); ok {
		b.denial, b.hint = reason, hint
		return nil
	}
	if len(message) > b.left || message == "" {
		return nil
	}
	b.left -= len(message)
	if !strings.HasSuffix(message, "\n") {
		message += "\n"
	}
	_, err := io.WriteString(b.show, message)
	return err
}

// parseDenial finds the denial of login in a banner, and the line below it.
func parseDenial(message, login string) (reason, hint string, ok bool) {
	lines := strings.Split(strings.TrimSpace(message), "\n")
	first := strings.TrimPrefix(strings.TrimSpace(lines[0]), "ERROR: ")
	rest, ok := strings.CutPrefix(first, denialPrefix+login+" connecting to ")
	if !ok {
		return "", "", false
	}
	// HOST:PORT has no space, so the first ": " ends it.
	_, reason, ok = strings.Cut(rest, ": ")
	if !ok || reason == "" {
		return "", "", false
	}
	if len(lines) > 1 {
		hint = strings.TrimSpace(lines[1])
	}
	return reason, hint, true
}

// hintEnroll is what a person does who needs a trusted device.
const hintEnroll = "Enroll this device with: dtsh device enroll --current-device (or --token=TOKEN from an administrator), then log in again with: dtsh login"

// refusal says the denial for shown, the address as the person knows it.
func (b *banners) refusal(shown string) *api.Refusal {
	reason, hint := b.denial, b.hint
	if reason == "" {
		reason, hint = "the node did not accept the certificate", "See your logins with: dtsh status"
	}
	if reason == policy.ReasonTrustedDevice {
		hint = hintEnroll
	}
	r := api.Refuse(connect.CodePermissionDenied, "%s%s connecting to %s: %s", denialPrefix, b.login, shown, reason)
	return r.WithHint("%s", hint)
}

// strippedLines makes text of a node's fit for a terminal: control characters
// (so escape sequences), invisible formatting such as bidirectional overrides,
// and what is no UTF-8 are removed; line ends and tabs stay.
func strippedLines(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		i += n
		switch {
		case r == utf8.RuneError && n == 1:
		case r == '\n' || r == '\t':
			b.WriteRune(r)
		case unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp):
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// strippedLine is strippedLines on one line, and not longer than one.
func strippedLine(s string) string {
	s = strings.Join(strings.Fields(strippedLines(s)), " ")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "")
	}
	return s
}
