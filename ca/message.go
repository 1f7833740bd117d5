package ca

import "devicetrust/identity"

// SignMessage signs a message that is no certificate, as the user authority:
// what servers keep of the policy, and what is revoked. Whoever has that key
// decides who is let in anyhow.
func (c *CA) SignMessage(ns identity.Namespace, message []byte) ([]byte, error) {
	return identity.SignMessage(c.user, ns, message)
}
