################################################################################
#
# kasa-care-agent: installs the tarball of `make firmware`
#
################################################################################

KASA_CARE_AGENT_VERSION = 0.1.0
KASA_CARE_AGENT_LICENSE = Apache-2.0 or MIT
KASA_CARE_AGENT_LICENSE_FILES = LICENSE-APACHE LICENSE-MIT
KASA_CARE_AGENT_REDISTRIBUTE = YES

# The static program for this processor.
ifeq ($(BR2_ARM_CPU_ARMV7A),y)
KASA_CARE_AGENT_TARGET = armv7-unknown-linux-musleabihf
else ifeq ($(BR2_ARM_CPU_ARMV5),y)
KASA_CARE_AGENT_TARGET = armv5te-unknown-linux-musleabi
else ifeq ($(BR2_aarch64),y)
KASA_CARE_AGENT_TARGET = aarch64-unknown-linux-musl
else ifeq ($(BR2_mipsel),y)
KASA_CARE_AGENT_TARGET = mipsel-unknown-linux-musl
endif

KASA_CARE_AGENT_SOURCE = kasa-care-agent-$(KASA_CARE_AGENT_VERSION)-$(KASA_CARE_AGENT_TARGET).tar.xz
KASA_CARE_AGENT_SITE = $(call qstrip,$(BR2_PACKAGE_KASA_CARE_AGENT_DIRECTORY))
KASA_CARE_AGENT_SITE_METHOD = file

# The archive's own checksums. Buildroot checks the archive itself if kasa-care-agent.hash, which `make firmware` writes
# beside it, is copied beside this file.
define KASA_CARE_AGENT_BUILD_CMDS
	cd $(@D) && sha256sum --check --quiet --strict SHA256SUMS
endef

define KASA_CARE_AGENT_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/rootfs/usr/bin/kasa-care-agent $(TARGET_DIR)/usr/bin/kasa-care-agent
	$(INSTALL) -D -m 0640 $(@D)/rootfs/etc/kasa-care-agent/config.toml $(TARGET_DIR)/etc/kasa-care-agent/config.toml
	$(INSTALL) -D -m 0640 $(@D)/rootfs/etc/kasa-care-agent/config-32mb.toml $(TARGET_DIR)/etc/kasa-care-agent/config-32mb.toml
	$(KASA_CARE_AGENT_INSTALL_PROFILE)
endef

ifeq ($(BR2_PACKAGE_KASA_CARE_AGENT_32MB),y)
define KASA_CARE_AGENT_INSTALL_PROFILE
	$(INSTALL) -D -m 0640 $(@D)/rootfs/etc/kasa-care-agent/config-32mb.toml $(TARGET_DIR)/etc/kasa-care-agent/config.toml
endef
endif

define KASA_CARE_AGENT_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/rootfs/etc/init.d/S95kasa-care-agent $(TARGET_DIR)/etc/init.d/S95kasa-care-agent
endef

# The agent drops root for this user.
define KASA_CARE_AGENT_USERS
	kasa-care-agent -1 kasa-care-agent -1 * /var/lib/kasa-care-agent - - Care agent
endef

$(eval $(generic-package))
