include $(sort $(wildcard $(BR2_EXTERNAL_KASA_CARE_PATH)/package/*/*.mk))
