package node

import "fmt"

// GatewayPorts are as in sshd_config(5); the zero value is "no".
type GatewayPorts string

const (
	// GatewayPortsNo: on loopback only.
	GatewayPortsNo GatewayPorts = "no"
	// GatewayPortsYes: on every address.
	GatewayPortsYes GatewayPorts = "yes"
	// GatewayPortsClient: where the client says.
	GatewayPortsClient GatewayPorts = "clientspecified"
)

// UnmarshalText takes one of the three words.
func (g *GatewayPorts) UnmarshalText(text []byte) error {
	switch word := GatewayPorts(text); word {
	case GatewayPortsNo, GatewayPortsYes, GatewayPortsClient:
		*g = word
		return nil
	default:
		return fmt.Errorf("gateway_ports is %.64q, and not no, yes or clientspecified", text)
	}
}
