package client

import (
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"devicetrust/api"
)

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?$`)

// ParseProxy reads a dtauthd's address as people write it (HOST, HOST:PORT,
// https://HOST:PORT/, with IPv6 in brackets or bare) and gives HOST:PORT.
func ParseProxy(s string) (string, error) {
	text := strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	host, port := text, defaultPort
	if _, err := netip.ParseAddr(text); err != nil {
		if h, p, err := net.SplitHostPort(text); err == nil {
			host, port = h, p
		}
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if !validHost(host) || !validPort(port) {
		return "", api.Refuse(connect.CodeInvalidArgument, "%.256q is not an address of the form HOST:PORT", s).
			WithHint("Example: --proxy=dt.example.com:%s", defaultPort)
	}
	return net.JoinHostPort(host, port), nil
}

func validHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	if err == nil {
		return addr.Zone() == ""
	}
	return hostPattern.MatchString(host)
}

func validPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n > 0 && strconv.FormatUint(n, 10) == port
}

// fileName is the proxy's name in DTSH_HOME: colons are not allowed in file
// names everywhere.
func fileName(proxy string) string {
	return strings.NewReplacer(":", "_", "[", "", "]", "").Replace(proxy)
}
