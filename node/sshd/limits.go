package sshd

const (
	// maxNode is several times what a node.json with the longest names has.
	maxNode = 4 << 10
	// maxAuthorities: there are two while keys are rotated. Each is asked at
	// every signature.
	maxAuthorities = 16
	// maxUserCA: an RSA key of 16,384 bits, the largest that OpenSSH makes, is
	// 2.8 KiB of base64.
	maxUserCA = maxAuthorities * 4 << 10
)
