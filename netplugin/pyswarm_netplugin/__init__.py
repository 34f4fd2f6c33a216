"""The netplugin: overlays between hosts, container sandboxes, DNS and virtual IPs."""
